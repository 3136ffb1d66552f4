"""What the caches keep of ModelEndpoints, LoraAdapters and pods: what a snapshot needs of them, and no more. Pure.

Users write these objects, so each is read within bounds. What cannot be read raises `ValueError`: the informer leaves
that object out and says so, and all others stay. A pod is kept only while it may get requests, so that of its many
events only those that matter are seen.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio_api.durations import length_of
from patio_api.endpoint_labels import ENDPOINT, REQUEST_CONTAINERS, REQUEST_PORT, TAKES_REQUESTS
from patio_api.labels import ADAPTER_LOADED, ADAPTER_PREFIX, adapter_label, bounded_labels, owners_shown
from patio_api.loraadapter import LoraAdapter
from patio_api.model_endpoint import ModelEndpoint, UnreadableEndpoint, read
from patio_gateway.snapshot import Address, Decision, Model, QueueLimits, Routing, Start, StartPhase
from patio_kube.pods import is_leaving, is_ready

LONGEST_MESSAGE = 300
"""Characters of what the operator says of a start."""

LoadedAdapter = tuple[str, str]
"""UID of a LoraAdapter, and the name of its adapter as a label has it (`labels.owners_shown`)."""


@dataclass(frozen=True)
class CachedEndpoint:
    """A ModelEndpoint."""

    namespace: str
    name: str
    uid: str
    created: datetime | None
    model: Model
    """What its own object says: all names that it claims, and neither adapters nor workers nor fallbacks."""
    adapter_labels: frozenset[tuple[str, str]] | None
    """Labels that a LoraAdapter must have to be served with it; None: none is."""
    fallbacks: tuple[str, ...] = ()
    """Names of other ModelEndpoints of its namespace."""


@dataclass(frozen=True)
class CachedAdapter:
    """A LoraAdapter."""

    namespace: str
    name: str
    uid: str
    created: datetime | None
    adapter_name: str
    """Its name in requests."""
    labels: frozenset[tuple[str, str]]

    @property
    def loaded(self) -> LoadedAdapter:
        """What the labels of a pod that has it show."""
        return self.uid, adapter_label(self.adapter_name).removeprefix(ADAPTER_PREFIX)


@dataclass(frozen=True)
class CachedPod:
    """A pod that may get requests: Ready, not draining, and with an address."""

    namespace: str
    name: str
    endpoint: str
    """Name of its ModelEndpoint."""
    address: Address
    loaded: frozenset[LoadedAdapter] = frozenset()
    """Adapters that its engine has verifiably loaded, each with whose it is."""


def decode_endpoint(body: Mapping[str, Any]) -> CachedEndpoint | None:
    """Reduce a ModelEndpoint; None for one that is being deleted.

    Raises:
        ValueError: it cannot be read.

    """
    endpoint = read(body)
    if isinstance(endpoint, UnreadableEndpoint):
        raise ValueError(endpoint.message)
    metadata, spec = endpoint.metadata, endpoint.spec
    if metadata.deletion_timestamp is not None:
        return None
    created = metadata.creation_timestamp
    return CachedEndpoint(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        created=created,
        model=Model(
            endpoint=endpoint.key,
            names=endpoint.names,
            engine=spec.engine,
            start=_start(endpoint),
            can_wake=spec.workers.max > 0,
            routing=Routing(spec.routing.prefix_aware, spec.routing.session_header, spec.routing.load_bound),
            queue=QueueLimits(
                max=spec.queue.max,
                timeout=length_of(spec.queue.timeout).total_seconds(),
                per_worker=spec.workers.concurrency,
            ),
            public=spec.access.public,
            owner=spec.access.owner,
            created=int(created.timestamp()) if created is not None else 0,
            last_decision=_decision(endpoint),
        ),
        adapter_labels=None if spec.adapters is None else frozenset(spec.adapters.selector.match_labels.items()),
        fallbacks=spec.routing.fallbacks,
    )


def _start(endpoint: ModelEndpoint) -> Start:
    progress = endpoint.status.progress
    if progress is None:
        return Start()
    message = " ".join(progress.message.split())
    if len(message) > LONGEST_MESSAGE:
        message = message[: LONGEST_MESSAGE - 1] + "…"
    return Start(StartPhase(progress.phase), progress.percent, message)


def _decision(endpoint: ModelEndpoint) -> Decision | None:
    last = endpoint.status.last_decision
    return None if last is None else Decision(last.at.timestamp(), last.from_, last.to, last.reason)


def decode_adapter(body: Mapping[str, Any]) -> CachedAdapter | None:
    """Reduce a LoraAdapter; None for one that is being deleted: its pods unload it.

    Raises:
        ValueError: it cannot be read.

    """
    metadata = body["metadata"]
    if metadata.get("deletionTimestamp") is not None:
        return None
    labels = bounded_labels(metadata)
    own_metadata = {key: metadata[key] for key in ("name", "namespace", "uid", "creationTimestamp") if key in metadata}
    adapter = LoraAdapter.model_validate({"metadata": own_metadata, "spec": body.get("spec")})
    return CachedAdapter(
        namespace=adapter.metadata.namespace,
        name=adapter.metadata.name,
        uid=adapter.metadata.uid,
        created=adapter.metadata.creation_timestamp,
        adapter_name=adapter.adapter_name,
        labels=frozenset((sys.intern(key), sys.intern(value)) for key, value in labels.items()),
    )


def decode_pod(body: Mapping[str, Any]) -> CachedPod | None:
    """Reduce a pod; None for one that gets no requests now.

    Raises:
        ValueError: it cannot be read.

    """
    metadata = body["metadata"]
    labels = bounded_labels(metadata)
    endpoint = labels.get(ENDPOINT)
    if not endpoint or labels.get(TAKES_REQUESTS) != "true" or is_leaving(body) or not is_ready(body):
        return None
    address = (body.get("status") or {}).get("podIP")
    port = _request_port(body.get("spec") or {})
    if not address or port is None:
        return None
    return CachedPod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        endpoint=sys.intern(endpoint),
        address=(str(ipaddress.ip_address(address)), port),
        loaded=frozenset(
            (owner, sys.intern(name))
            for owner, name in owners_shown(labels)
            if labels.get(ADAPTER_PREFIX + name) == ADAPTER_LOADED
        ),
    )


def _request_port(spec: Mapping[str, Any]) -> int | None:
    """Return the port on which a pod takes requests."""
    for container in spec.get("containers") or []:
        if container.get("name") not in REQUEST_CONTAINERS:
            continue
        for port in container.get("ports") or []:
            number = port.get("containerPort")
            if port.get("name") == REQUEST_PORT and isinstance(number, int) and 0 < number < 65536:
                return number
    return None

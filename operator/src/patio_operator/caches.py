"""What the process knows of the cluster by its watches: of each object what planners and admissions need, and no more.

A thousand pods as the API server tells them are tens of megabytes; as they are kept here, one or two. One `Informer`
for a kind and scope, in every replica: `Caches.watches` are all of them. Nothing here decides.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patio_operator.api import labels
from patio_operator.api.bounded_json import read_object
from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.api.profile import ClusterEngineRuntimeProfile
from patio_operator.kube.client import KubeClient, Object, Scope
from patio_operator.kube.informer import Informer
from patio_operator.kube.resources import LORA_ADAPTER, POD, PROFILE, ROLE_BASED_GROUP, SERVICE, STATEFUL_SET
from patio_operator.loraadapters.planner.observation import EnginePod, decode_engine_pod
from patio_operator.loraadapters.planner.services import CachedService, decode_service
from patio_operator.loraadapters.planner.status import RecordedStatus, recorded
from patio_operator.profiles.planner.consumers import ProfileUse, use_of

log = logging.getLogger(__name__)

LONGEST_LABELS = 16_384
LONGEST_NAMES = 65_536
LONGEST_SPEC = 65_536
"""Characters that are kept of a pod's labels, of its annotation with the names of its adapters, and of a LoraAdapter:
what is known is in the memory of every replica."""
_NOT_KEPT = ("labels", "annotations", "managedFields")


@dataclass(frozen=True)
class CachedPod:
    """A pod with a sidecar."""

    pod: EnginePod
    use: ProfileUse | None
    """Which profiles it has, and what would make it anew; None of one that is going or has ended."""
    engine_port: int | None
    """Where its engine listens, as injection found out."""
    model: str | None
    """The name under which its engine serves its base model, as injection found out."""
    names: str | None
    """The annotation that keeps the whole names of its adapters."""


@dataclass(frozen=True)
class CachedAdapter:
    """A LoraAdapter."""

    adapter: LoraAdapter
    """Without its status."""
    status: RecordedStatus
    """What its status says."""

    @property
    def reference(self) -> Object:
        """The object as events about it and writes to it want it."""
        metadata = self.adapter.metadata
        return {
            "apiVersion": LORA_ADAPTER.api_version,
            "kind": LORA_ADAPTER.kind,
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
                "resourceVersion": metadata.resource_version,
            },
        }


@dataclass(frozen=True)
class CachedGroup:
    """A RoleBasedGroup: what tells that somebody changed it, apart from its status."""

    name: str
    digest: str
    handed_over: bool
    """Whether it is to be left to upstream's controller."""


class Caches:
    """The watches."""

    def __init__(self, cluster: KubeClient, *, groups: bool = True, namespaces: Sequence[str] = ()) -> None:
        """Make the watches; `watches` runs them.

        Args:
            cluster: where they watch.
            groups: whether RoleBasedGroups and what they are made of are watched.
            namespaces: that are watched; none: all.

        """
        self._with_groups = groups
        injected = Scope(labels=f"{labels.INJECTED}=true")
        ours = Scope(labels=labels.ADAPTER_SERVICE)
        of_groups = Scope(labels=labels.GROUP_NAME, metadata_only=True)
        self.pods = Informer(cluster, POD, decode_pod, injected, namespaces)
        self.adapters = Informer(cluster, LORA_ADAPTER, decode_adapter, namespaces=namespaces)
        self.services: Informer[CachedService] = Informer(cluster, SERVICE, decode_service, ours, namespaces)
        self.profiles = Informer(cluster, PROFILE, ClusterEngineRuntimeProfile.model_validate)
        self.groups = Informer(cluster, ROLE_BASED_GROUP, decode_group, Scope(metadata_only=True), namespaces)
        self.group_pods = Informer(cluster, POD, decode_member, of_groups, namespaces)
        self.stateful_sets = Informer(cluster, STATEFUL_SET, decode_member, of_groups, namespaces)

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """Return what keeps everything up to date, until cancelled."""
        return [one.run() for one in self._all()]

    def retry_now(self) -> None:
        """Have no watch that is lost wait any longer before it tries again."""
        for one in self._all():
            one.retry_now()

    def _all(self) -> tuple[Informer[Any], ...]:
        always = (self.pods, self.adapters, self.services, self.profiles)
        of_groups = (self.groups, self.group_pods, self.stateful_sets)
        return (*always, *of_groups) if self._with_groups else always

    @property
    def complete(self) -> bool:
        """Whether every watch is there."""
        return all(one.synced for one in self._all())

    def synced_in(self, namespace: str) -> bool:
        """Return whether what a namespace's LoraAdapters are planned from is as it is in the API server."""
        return self.pods.synced_in(namespace) and self.adapters.synced_in(namespace)

    async def relist(self) -> None:
        """Have everything read anew that LoraAdapters are planned from."""
        await asyncio.gather(self.pods.relist(), self.adapters.relist())


def decode_pod(body: Object) -> CachedPod:
    """Reduce a pod with a sidecar.

    Raises:
        ValueError: it has more labels than are kept of one.

    """
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    size = sum(len(key) + len(value) for key, value in (metadata.get("labels") or {}).items())
    if size > LONGEST_LABELS:
        raise ValueError(f"its labels have {size} characters, more than {LONGEST_LABELS}")
    names = annotations.get(labels.ADAPTER_NAMES)
    if names is not None and len(names) > LONGEST_NAMES:
        names = ""
    pod = decode_engine_pod(body)
    use = None if pod.leaving else use_of(metadata)
    port, model = _engine(annotations)
    return CachedPod(pod, use, port, model, names)


def decode_adapter(body: Object) -> CachedAdapter:
    """Reduce a LoraAdapter.

    Raises:
        ValueError: it is not as the CRD's schema says now, or larger than what is kept of one.

    """
    size = len(json.dumps(body.get("spec")))
    if size > LONGEST_SPEC:
        raise ValueError(f"its spec has {size} characters, more than {LONGEST_SPEC}")
    metadata = {key: value for key, value in body["metadata"].items() if key not in _NOT_KEPT}
    adapter = LoraAdapter.model_validate({"metadata": metadata, "spec": body.get("spec")})
    return CachedAdapter(adapter, recorded(body.get("status") or {}))


def adapters_in(bodies: Iterable[Object]) -> tuple[LoraAdapter, ...]:
    """Return the LoraAdapters among some that can be read; the others are logged."""
    found: list[LoraAdapter] = []
    for body in bodies:
        try:
            found.append(decode_adapter(body).adapter)
        except (ValueError, RecursionError) as error:
            metadata = body["metadata"]
            log.error(
                "LoraAdapter %s/%s cannot be read: %s",
                metadata.get("namespace"),
                metadata.get("name"),
                str(error)[:500],
            )
    return tuple(found)


def decode_group(body: Object) -> CachedGroup:
    """Reduce a RoleBasedGroup, of which only metadata is here. Its generation is another one when its spec is."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    told = [metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp"), annotations]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return CachedGroup(metadata["name"], digest, annotations.get(labels.HAND_OVER) == "true")


def decode_member(body: Object) -> tuple[str, str]:
    """Reduce what is labelled as a RoleBasedGroup's to the group's name and its own version: each change is one."""
    metadata = body["metadata"]
    return metadata["labels"][labels.GROUP_NAME], metadata["resourceVersion"]


def _engine(annotations: Mapping[str, str]) -> tuple[int | None, str | None]:
    """Read the engine's port and model, as far as the annotation has them: anybody may have written it."""
    said = read_object(annotations.get(labels.ENGINE))
    port, model = said.get("port"), said.get("model")
    there = isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536
    return port if there else None, model if isinstance(model, str) else None

"""What the cache keeps of ModelEndpoints, of their pods and groups, and of who claims which name in requests. Pure.

An endpoint itself, and its groups, are read from the API server when it is planned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from patio_api.endpoint_labels import ENDPOINT
from patio_api.model_endpoint import UnreadableEndpoint, read
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.modelendpoints.planner.snapshot import Claim, ObservedPod, decode_pod
from patio_operator.pods.engine_pod import SIDECAR_PORT_NAME

Key = tuple[str, str]
"""Namespace and name."""
_UNKNOWN_CREATION = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class CachedEndpoint:
    """A ModelEndpoint: what changes with it apart from its status, and what others need to know of it."""

    name: str
    digest: str
    claim: Claim
    profiles: frozenset[str] = frozenset()
    """That it names."""


@dataclass(frozen=True)
class CachedPod:
    """A pod of an endpoint."""

    endpoint: str
    pod: ObservedPod


def decode_endpoint(body: Mapping[str, Any]) -> CachedEndpoint:
    """Reduce a ModelEndpoint. One that cannot be read claims no name, and is planned all the same, to say so."""
    metadata = body["metadata"]
    compared = [metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp")]
    digest = hashlib.sha256(json.dumps(compared).encode()).hexdigest()
    endpoint = read(body)
    if isinstance(endpoint, UnreadableEndpoint):
        key = f"{metadata.get('namespace', '')}/{metadata['name']}"
        return CachedEndpoint(metadata["name"], digest, Claim(key, (), _UNKNOWN_CREATION))
    created = endpoint.metadata.creation_timestamp or _UNKNOWN_CREATION
    profiles = frozenset(runtime.profile_name for runtime in endpoint.runtimes)
    return CachedEndpoint(metadata["name"], digest, Claim(endpoint.key, endpoint.names, created), profiles)


def decode_endpoint_pod(body: Mapping[str, Any]) -> CachedPod | None:
    """Reduce a pod that is labelled as an endpoint's; None for one that no group can have made."""
    pod = decode_pod(body)
    return None if pod is None else CachedPod(body["metadata"]["labels"][ENDPOINT], pod)


def decode_endpoint_group(body: Mapping[str, Any]) -> tuple[str, str]:
    """Reduce a RoleBasedGroup, of which only metadata is here, to its endpoint's name and its own version."""
    metadata = body["metadata"]
    return metadata["labels"][ENDPOINT], metadata["resourceVersion"]


def sidecar_container(profile: ClusterEngineRuntimeProfile) -> str:
    """Return the name of the sidecar's container in a profile; empty if it has none.

    It is found by what the operator finds it by in pods: a port of this name. A profile with one container needs none.
    """
    containers = (*profile.spec.init_containers, *profile.spec.containers)
    for container in containers:
        if any(port.get("name") == SIDECAR_PORT_NAME for port in container.get("ports") or []):
            return str(container["name"])
    return str(containers[0]["name"]) if len(containers) == 1 else ""


class ClaimIndex:
    """Who claims which name in requests, by name: a change of an endpoint concerns few others."""

    def __init__(self) -> None:
        self._by_name: dict[str, dict[str, Claim]] = {}

    def replace(self, before: Claim | None, after: Claim | None) -> set[Key]:
        """Take in a change of a claim; return the endpoints that claim a name which it had or has."""
        concerned: set[Key] = set()
        if before is not None:
            for name in before.names:
                holders = self._by_name.get(name, {})
                holders.pop(before.key, None)
                concerned |= _keys(holders)
                if not holders:
                    self._by_name.pop(name, None)
        if after is not None:
            for name in after.names:
                holders = self._by_name.setdefault(name, {})
                concerned |= _keys(holders)
                holders[after.key] = after
        return concerned

    def rivals(self, key: str, names: Collection[str]) -> tuple[Claim, ...]:
        """Return who else claims one of some names."""
        found = {
            claim.key: claim for name in names for claim in self._by_name.get(name, {}).values() if claim.key != key
        }
        return tuple(found[each] for each in sorted(found))


def _keys(holders: Mapping[str, Claim]) -> set[Key]:
    places = (key.partition("/") for key in holders)
    return {(namespace, name) for namespace, _, name in places}

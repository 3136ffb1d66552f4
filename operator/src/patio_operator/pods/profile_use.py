"""Which profiles a pod has, at which revision, and which workload would recreate it. Pure.

Read from the metadata of an injected pod, of which anybody may have written the annotations. A pod of a ReplicaSet is
its Deployment's, whose name is the ReplicaSet's without the hash that the Deployment gave it: no right to read
ReplicaSets is needed for that. A pod that a RoleBasedGroup controls is of a leader-worker role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patio_api import labels, rollout_annotations
from patio_api.bounded_json import read_object
from patio_api.object_names import is_object_name
from patio_api.owners import controller

ROLE_KIND = "RoleBasedGroup"
ROLE_GROUP = "workloads.x-k8s.io"
"""What controls the pods of a leader-worker role."""
MOST_PROFILES = 16
"""Profiles that a pod can have: more than that were not injected."""
LONGEST_ANNOTATION = 8_192
LONGEST_REVISION = 64
_HASH = "pod-template-hash"
_ROLLED = ("StatefulSet", "DaemonSet")


@dataclass(frozen=True, order=True)
class WorkloadRef:
    """Which workload."""

    kind: str
    namespace: str
    name: str
    """Of a leader-worker role: GROUP/ROLE."""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class ProfileUse:
    """What an injected pod says of its profiles, and of what would recreate it."""

    namespace: str
    name: str
    revisions: Mapping[str, str]
    """The revision of each profile that it got."""
    rolled_for: Mapping[str, str]
    """The revision of each profile that its template was last rolled for."""
    workload: WorkloadRef | None
    made_by: str


def use_of(metadata: Mapping[str, Any]) -> ProfileUse | None:
    """Read a pod's metadata; None for a pod that has no profile or is being deleted."""
    revisions = profiles_in(metadata)
    if not revisions or metadata.get("deletionTimestamp"):
        return None
    owner = controller(metadata) or {}
    rolled_for = {
        name: revision for name, revision in rollout_annotations.of_template(metadata).items() if name in revisions
    }
    return ProfileUse(
        metadata["namespace"],
        metadata["name"],
        revisions,
        rolled_for,
        _workload(metadata, owner),
        owner.get("kind", "Pod"),
    )


def profiles_in(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the revision of each profile that a pod got.

    Anybody can write the annotation. What is not as injection writes it counts as nothing: it names a few profiles, and
    each by a name that one can have.
    """
    annotation = read_object((metadata.get("annotations") or {}).get(labels.INJECTED), LONGEST_ANNOTATION)
    if len(annotation) > MOST_PROFILES:
        return {}
    return {
        name: revision
        for name, revision in annotation.items()
        if is_object_name(name) and isinstance(revision, str) and len(revision) <= LONGEST_REVISION
    }


def _workload(metadata: Mapping[str, Any], owner: Mapping[str, Any]) -> WorkloadRef | None:
    group, _, _ = owner.get("apiVersion", "").partition("/")
    if group == ROLE_GROUP and owner.get("kind") == ROLE_KIND:
        found = labels.group_and_role(metadata.get("labels") or {})
        return None if found is None else WorkloadRef(ROLE_KIND, metadata["namespace"], "/".join(found))
    if group != "apps":
        return None
    kind, name = owner["kind"], owner["name"]
    suffix = "-" + (metadata.get("labels") or {}).get(_HASH, "")
    if kind == "ReplicaSet" and suffix != "-" and name.endswith(suffix):
        return WorkloadRef("Deployment", metadata["namespace"], name.removesuffix(suffix))
    return WorkloadRef(kind, metadata["namespace"], name) if kind in _ROLLED else None

"""Which pods have a profile, at which revision, and which workload would make them anew.

Comes first in a pass: from the metadata of the injected pods. A pod of a ReplicaSet is its Deployment's, whose name is
the ReplicaSet's without the hash that the Deployment gave it: no right to read ReplicaSets is needed for that. A pod
that a RoleBasedGroup controls is of a leader-worker role.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from patio_operator.api import labels, rolled
from patio_operator.rollouts.workloads import Ref

ROLE_KIND = "RoleBasedGroup"
ROLE_GROUP = "workloads.x-k8s.io"
"""What controls the pods of a leader-worker role."""
_HASH = "pod-template-hash"
_ROLLED = ("StatefulSet", "DaemonSet")


@dataclass(frozen=True)
class User:
    """A pod that has the profile."""

    namespace: str
    name: str
    revision: str
    """Of the profile, when the pod was made."""
    workload: Ref | None
    """What makes it anew when its template changes; None when nothing does that Patio rolls."""
    made_by: str
    """Kind of its controller; `Pod` for one that nobody controls."""
    rolled_for: str = ""
    """The revision of the profile that its template was last rolled for; empty when it never was."""


def users_of(profile: str, pods: Iterable[Mapping[str, Any]]) -> list[User]:
    """Return the pods that have a profile, without those that are being deleted.

    Args:
        profile: its name.
        pods: objects of which only metadata is read.

    """
    users: list[User] = []
    for pod in pods:
        metadata = pod["metadata"]
        revision = profiles_in(metadata).get(profile)
        if revision is None or metadata.get("deletionTimestamp"):
            continue
        owner: Mapping[str, Any] = next(
            (one for one in metadata.get("ownerReferences") or [] if one.get("controller")), {}
        )
        users.append(
            User(
                metadata["namespace"],
                metadata["name"],
                revision,
                _workload(metadata, owner),
                owner.get("kind", "Pod"),
                rolled.of_template(metadata).get(profile, ""),
            )
        )
    return users


def profiles_in(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the revision of each profile that a pod got; nothing where the annotation cannot be read."""
    try:
        said = json.loads((metadata.get("annotations") or {}).get(labels.INJECTED) or "{}")
    except ValueError:
        return {}
    return {str(name): str(revision) for name, revision in said.items()} if isinstance(said, dict) else {}


def _workload(metadata: Mapping[str, Any], owner: Mapping[str, Any]) -> Ref | None:
    group, _, _ = owner.get("apiVersion", "").partition("/")
    if group == ROLE_GROUP and owner["kind"] == ROLE_KIND:
        found = labels.group_and_role(metadata.get("labels") or {})
        return None if found is None else Ref(ROLE_KIND, metadata["namespace"], "/".join(found))
    if group != "apps":
        return None
    kind, name = owner["kind"], owner["name"]
    suffix = "-" + (metadata.get("labels") or {}).get(_HASH, "")
    if kind == "ReplicaSet" and suffix != "-" and name.endswith(suffix):
        return Ref("Deployment", metadata["namespace"], name.removesuffix(suffix))
    return Ref(kind, metadata["namespace"], name) if kind in _ROLLED else None

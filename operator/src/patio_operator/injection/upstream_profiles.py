"""What upstream's controller meant for a pod that it made: observe mode's part of `requested_profiles`.

Upstream renders a role's profiles into pod templates and leaves no trace on the pod that says so. What a pod is to
have is therefore read from its group: the shell finds the group by `member_of`, and `runtimes_of_role` says which
profiles that group's role names. Pods for which upstream's rule is "no profile" get none from here either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patio_api import labels
from patio_api.owners import controller
from patio_operator.injection.requested_profiles import is_name, read_runtimes
from patio_operator.injection.types import PodRejection, RuntimeRef

_POSITIONS = (
    labels.COMPONENT_INDEX,
    labels.OLD_COMPONENT_INDEX,
    labels.LWS_WORKER_INDEX,
)
"""Labels that say a pod's place in its leader-worker instance, by generation of upstream; the leader's is 0."""


def member_of(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return group and role of a pod that some controller made for a RoleBasedGroup; None of any other pod.

    A pod without a controller has such labels to be found by a Service, not because upstream made it.
    """
    metadata = pod.get("metadata") or {}
    if controller(metadata) is None:
        return None
    member = labels.group_and_role(metadata.get("labels") or {})
    # Labels are checked after admission: what is no name would be asked for at another place of the API.
    return member if member is not None and is_name(member[0]) else None


def runtimes_of_role(
    pod: Mapping[str, Any], group: Mapping[str, Any], role_name: str
) -> tuple[RuntimeRef, ...] | PodRejection:
    """Return the profiles that a group names for a pod of one of its roles, in order.

    Args:
        pod: one of the role's pods.
        group: the RoleBasedGroup as the API server has it, of either version.
        role_name: the role.

    """
    roles = (group.get("spec") or {}).get("roles") or []
    role = next((role for role in roles if role.get("name") == role_name), None)
    if role is None or _is_worker(pod, role):
        return ()
    entries = read_runtimes(role.get("engineRuntimes") or [])
    if isinstance(entries, str):
        return PodRejection(f"engineRuntimes of role {role_name!r} cannot be read: {entries}", "invalid_request")
    return tuple(
        RuntimeRef(entry.profile_name, entry.containers, entry.inject_containers, rendered=True) for entry in entries
    )


def _is_worker(pod: Mapping[str, Any], role: Mapping[str, Any]) -> bool:
    """Whether a pod is a worker of a leader-worker instance: those get no profile, adapters go through the leader."""
    if not (role.get("leaderWorkerPattern") or role.get("leaderWorkerSet")):
        return False
    pod_labels = pod["metadata"].get("labels") or {}
    position = next((pod_labels[key] for key in _POSITIONS if key in pod_labels), None)
    if position is not None:
        return bool(position != "0")
    return bool(pod_labels.get(labels.COMPONENT_NAME) == "worker")

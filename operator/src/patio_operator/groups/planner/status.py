"""What a group's status says: counts from its StatefulSets, and whether all of it is ready.

Used by `planner`. Upstream's words where it has some ("All roles are ready"), followed by what is missing.
Computed from observed objects only, never from what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio_api.conditions import find, next_condition
from patio_api.rolebasedgroup import Role, RoleBasedGroup

_ON_ITS_WAY = ("ContainerCreating", "PodInitializing")
"""Reasons for which a container waits that are none to mention."""


@dataclass(frozen=True)
class Count:
    """The instances of a role."""

    wanted: int
    replicas: int = 0
    ready: int = 0
    updated: int = 0
    exists: bool = False
    current: bool = False
    """Whether the StatefulSet asks for what the role does, and its controller has seen that."""

    @property
    def is_ready(self) -> bool:
        """Whether the role has all its instances, all ready, and no more."""
        return self.current and self.wanted == self.replicas == self.ready


def count(role: Role, workload: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> Count:
    """Count a role's instances.

    Args:
        role: the role.
        workload: its StatefulSet, if there is one.
        before: its entry in the group's last status: kept while the StatefulSet's own status is out of date.

    """
    if workload is None:
        return Count(role.replicas)
    observed = workload.get("status") or {}
    seen = observed.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
    source = observed if seen or before is None else before
    return Count(
        wanted=role.replicas,
        replicas=source.get("replicas", 0),
        ready=source.get("readyReplicas", 0),
        updated=source.get("updatedReplicas", 0),
        exists=True,
        current=seen and workload["spec"].get("replicas", 1) == role.replicas,
    )


def group_status(
    group: RoleBasedGroup, counts: Mapping[str, Count], ready: tuple[str, str, str], now: datetime
) -> dict[str, Any]:
    """Return the whole status. `ready` is status, reason and message of the condition."""
    before = [condition.to_api() for condition in group.status.conditions]
    generation = group.metadata.generation
    status, reason, message = ready
    return {
        "observedGeneration": generation,
        "conditions": [next_condition(before, "Ready", status, reason, message, generation, now)],
        "roleStatuses": [
            {
                "name": name,
                "replicas": role_count.replicas,
                "readyReplicas": role_count.ready,
                "updatedReplicas": role_count.updated,
            }
            for name, role_count in counts.items()
        ],
    }


def readiness(
    counts: Mapping[str, Count], waiting: Mapping[str, Sequence[str]], pod_failures: Mapping[str, str]
) -> tuple[str, str, str]:
    """Return status, reason and message of the Ready condition of a group that can be realised.

    Args:
        counts: of each role.
        waiting: the roles that a role waits for.
        pod_failures: what keeps a role's pods from running.

    """
    missing = [
        f"{name} waits for {', '.join(waiting[name])}"
        if waiting.get(name)
        else f"{name} {role_count.ready}/{role_count.wanted}"
        + (f" ({pod_failures[name]})" if pod_failures.get(name) else "")
        for name, role_count in counts.items()
        if not role_count.is_ready
    ]
    if missing:
        return "False", "RoleNotReady", f"Not all roles are ready: {'; '.join(missing)}"
    return "True", "AllRolesReady", "All roles are ready"


def pod_failure(pods: Iterable[Mapping[str, Any]]) -> str:
    """Say what keeps the first of some pods that has trouble from running; nothing when none has."""
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        status = pod.get("status") or {}
        scheduled = find(status, "PodScheduled")
        if scheduled.get("status") == "False":
            return f"{pod['metadata']['name']}: {scheduled.get('reason')}: {scheduled.get('message')}"
        for container in (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])):
            reason = ((container.get("state") or {}).get("waiting") or {}).get("reason")
            if reason not in (None, *_ON_ITS_WAY):
                return f"{pod['metadata']['name']}: {container['name']}: {reason}"
    return ""

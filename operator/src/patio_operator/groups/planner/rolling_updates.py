"""How a changed template reaches the pods of a role: which may keep the old one, how many may be down at once.

Used by `objects` for StatefulSets and by `instances` for leader-worker roles. `faster` helps StatefulSets: Kubernetes
replaces their pods one at a time unless its gate MaxUnavailableStatefulSet is open, whatever maxUnavailable says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patio_operator.api import labels
from patio_operator.api.conditions import find
from patio_operator.api.rolebasedgroup import Role, RollingUpdate


@dataclass(frozen=True)
class RollingUpdateLimits:
    """Numbers of instances."""

    partition: int
    """Instances with an index below it keep the revision that they have."""
    max_unavailable: int
    """Instances that may be down at once; at least 1, as there is no surge."""


def parameters(role: Role) -> RollingUpdate:
    """Return what a role says about its updates, or the defaults."""
    strategy = role.rollout_strategy
    return (strategy.rolling_update if strategy else None) or RollingUpdate()


def of(role: Role) -> RollingUpdateLimits:
    """Return how a role's instances are updated. Percentages of its replicas are rounded up."""
    wanted = parameters(role)
    partition = role.replicas if wanted.paused else _scaled(wanted.partition, role.replicas)
    return RollingUpdateLimits(partition, max(1, _scaled(wanted.max_unavailable, role.replicas)))


def kept_by_partition(role: Role) -> int:
    """Return how many instances of a role keep the revision that they have."""
    return min(of(role).partition, role.replicas)


def _scaled(value: int | str, replicas: int) -> int:
    if isinstance(value, int):
        return value
    return math.ceil(int(value.rstrip("%")) * replicas / 100)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod is ready and stays."""
    return "deletionTimestamp" not in pod["metadata"] and find(pod.get("status") or {}, "Ready").get("status") == "True"


def faster(role: Role, workload: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the pods to delete now beside the one that Kubernetes replaces, which makes them anew.

    Args:
        role: the role.
        workload: its StatefulSet as it is. That the API server has dropped maxUnavailable from it shows that the gate
            is closed.
        pods: those of the StatefulSet.

    """
    rollout, status = of(role), workload.get("status") or {}
    strategy = (workload["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    seen = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
    if rollout.max_unavailable == 1 or "maxUnavailable" in strategy or not seen:
        return
    there = {int(pod["metadata"]["name"].rsplit("-", 1)[1]): pod for pod in pods}
    unavailable = {index for index in range(role.replicas) if index not in there or not is_ready(there[index])}
    old = [
        index
        for index in range(rollout.partition, role.replicas)
        if index not in unavailable
        and there[index]["metadata"].get("labels", {}).get(labels.POD_REVISION) != status.get("updateRevision")
    ]
    # Kubernetes goes from the highest to the lowest and waits for one that is down. Where none is, it is about to take
    # the next one itself: two that delete at once would delete too many.
    if not old or not any(index > max(old) for index in unavailable):
        return
    for index in sorted(old, reverse=True)[: max(0, rollout.max_unavailable - len(unavailable))]:
        yield there[index]

"""How a changed template reaches the pods of a role's StatefulSet.

Kubernetes replaces the pods of a StatefulSet one at a time unless its gate MaxUnavailableStatefulSet is open, whatever
maxUnavailable says: `faster` names the pods to delete beside that one. Pods of leader-worker roles are made by
`instances`, by the same limits (`api.rolling_update`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from patio_api import labels
from patio_api.conditions import find
from patio_api.rolebasedgroup import Role
from patio_api.rolling_update import limits_of


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod is ready and stays."""
    return "deletionTimestamp" not in pod["metadata"] and find(pod.get("status") or {}, "Ready").get("status") == "True"


def faster(role: Role, workload: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the pods to delete now beside the one that Kubernetes replaces, which recreates them.

    Args:
        role: the role.
        workload: its StatefulSet as it is. That the API server has dropped maxUnavailable from it shows that the gate
            is closed.
        pods: those of the StatefulSet.

    """
    rollout, status = limits_of(role), workload.get("status") or {}
    strategy = (workload["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    seen = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
    if rollout.max_unavailable == 1 or "maxUnavailable" in strategy or not seen:
        return
    by_ordinal = {int(pod["metadata"]["name"].rsplit("-", 1)[1]): pod for pod in pods}
    unavailable = {
        index for index in range(role.replicas) if index not in by_ordinal or not is_ready(by_ordinal[index])
    }
    old = [
        index
        for index in range(rollout.partition, role.replicas)
        if index not in unavailable
        and by_ordinal[index]["metadata"].get("labels", {}).get(labels.POD_REVISION) != status.get("updateRevision")
    ]
    # Kubernetes goes from the highest to the lowest and waits for one that is down. Where none is, it is about to take
    # the next one itself: two that delete at once would delete too many.
    if not old or not any(index > max(old) for index in unavailable):
        return
    for index in sorted(old, reverse=True)[: max(0, rollout.max_unavailable - len(unavailable))]:
        yield by_ordinal[index]

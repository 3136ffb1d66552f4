"""How many pods of a StatefulSet are replaced at once where Kubernetes itself takes one after the other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_api.rolebasedgroup import Role
from patio_operator.groups.planner import rolling_updates

Object = dict[str, Any]


def role(replicas: int, **rolling: Any) -> Role:
    return Role.model_validate(
        {"name": "r", "replicas": replicas, "rolloutStrategy": {"rollingUpdate": rolling}, "standalonePattern": {}}
    )


def pod(index: int, revision: str, *, ready: bool = True, leaving: bool = False) -> Object:
    return {
        "metadata": {
            "name": f"g-r-{index}",
            "labels": {"controller-revision-hash": revision},
            **({"deletionTimestamp": "2026-11-21T12:00:00Z"} if leaving else {}),
        },
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def stateful_set(**rolling: Any) -> Object:
    return {
        "metadata": {"generation": 2},
        "spec": {"updateStrategy": {"rollingUpdate": {"partition": 0} | rolling}},
        "status": {"observedGeneration": 2, "updateRevision": "new"},
    }


def faster(of: Role, pods: list[Object], workload: Object | None = None) -> list[int]:
    found = rolling_updates.faster(of, workload or stateful_set(), pods)
    return [int(pod["metadata"]["name"].rsplit("-", 1)[1]) for pod in found]


def test_pods_beside_the_one_kubernetes_replaces_go_from_the_top() -> None:
    pods = [*(pod(index, "old") for index in range(4)), pod(4, "old", leaving=True)]
    assert faster(role(5, maxUnavailable=3), pods) == [3, 2]


def test_nothing_goes_before_kubernetes_has_begun() -> None:
    assert faster(role(5, maxUnavailable=3), [pod(index, "old") for index in range(5)]) == []


def test_pods_below_the_partition_stay() -> None:
    pods = [*(pod(index, "old") for index in range(4)), pod(4, "new", ready=False)]
    assert faster(role(5, maxUnavailable=5, partition=3), pods) == [3]


@pytest.mark.parametrize(
    "workload",
    [
        stateful_set(maxUnavailable=3),  # the gate is open: Kubernetes does it
        stateful_set() | {"metadata": {"generation": 3}},  # its controller has not seen the new template yet
    ],
)
def test_kubernetes_is_left_alone_where_it_knows_better(workload: Object) -> None:
    pods = [*(pod(index, "old") for index in range(4)), pod(4, "old", leaving=True)]
    assert faster(role(5, maxUnavailable=3), pods, workload) == []


def kubernetes(pods: dict[int, Object], replicas: int, partition: int) -> None:
    """One look of the StatefulSet controller (1.34, parallel, gate closed) at its pods."""
    for index in range(replicas):
        if index not in pods:
            pods[index] = pod(index, "new" if index >= partition else "old", ready=False)
            del pods[index]["status"]
    for index in range(replicas - 1, partition - 1, -1):
        current = pods[index]
        if (
            current["metadata"]["labels"]["controller-revision-hash"] != "new"
            and "deletionTimestamp" not in current["metadata"]
        ):
            current["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
            return
        if not rolling_updates.is_ready(current):
            return


@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 3),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=12),
)
def test_both_together_stay_within_max_unavailable_and_finish(
    replicas: int, allowed: int, partition: int, luck: list[tuple[bool, bool, bool]]
) -> None:
    of = role(replicas, maxUnavailable=allowed, partition=partition)
    pods = {index: pod(index, "old") for index in range(replicas)}
    for we_look, pods_end, pods_get_ready in [*luck, *[(True, True, True)] * 3 * replicas]:
        kubernetes(pods, replicas, partition)
        if we_look:
            for index in faster(of, list(pods.values())):
                pods[index]["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
        assert sum(rolling_updates.is_ready(pod) for pod in pods.values()) >= replicas - allowed
        if pods_end:
            pods = {index: pod for index, pod in pods.items() if "deletionTimestamp" not in pod["metadata"]}
        if pods_get_ready:
            for index, current in pods.items():
                if "deletionTimestamp" not in current["metadata"]:
                    pods[index] = pod(index, current["metadata"]["labels"]["controller-revision-hash"])
    kubernetes(pods, replicas, partition)
    assert [pods[index]["metadata"]["labels"]["controller-revision-hash"] for index in range(replicas)] == [
        "old" if index < partition else "new" for index in range(replicas)
    ]

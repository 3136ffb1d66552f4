"""What is read of pods and groups, in the words of Kubernetes; anybody may have written them."""

from __future__ import annotations

from typing import Any

import pytest

from patio_operator.modelendpoints.planner.snapshot import PodState, decode_group, decode_pod

Object = dict[str, Any]
LABELS = {"rbg.workloads.x-k8s.io/group-name": "qwen-1", "rbg.workloads.x-k8s.io/role-name": "server"}


def body(name: str = "qwen-1-server-0", *, status: Object | None = None, node: str = "node-a", **labels: str) -> Object:
    return {
        "metadata": {
            "name": name,
            "uid": "u",
            "creationTimestamp": "2026-11-27T10:00:00Z",
            "labels": LABELS | labels,
        },
        "spec": {"nodeName": node} if node else {},
        "status": status or {},
    }


def containers(state: Object, **more: Any) -> Object:
    return {"containerStatuses": [{"name": "engine", "state": state} | more]}


@pytest.mark.parametrize(
    ("pod", "state", "words"),
    [
        (body(node=""), PodState.SCHEDULING, "it waits for a node"),
        (
            body(
                node="",
                status={"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: no gpu"}]},
            ),
            PodState.SCHEDULING,
            "0/3 nodes: no gpu",
        ),
        (body(status=containers({"waiting": {"reason": "ContainerCreating"}})), PodState.PULLING, "image is pulled"),
        (
            body(status=containers({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})),
            PodState.FAILING,
            "container 'engine': ImagePullBackOff: no such image",
        ),
        (
            body(
                status=containers(
                    {"waiting": {"reason": "CrashLoopBackOff"}},
                    restartCount=3,
                    lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                )
            ),
            PodState.FAILING,
            "container 'engine' ended with exit code 137: OOMKilled; it has restarted 3 times",
        ),
        (body(status=containers({"running": {}})), PodState.LOADING, ""),
        (body(status={"phase": "Failed", "reason": "Evicted"}), PodState.FAILING, "Evicted"),
        (
            body(
                status={
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-27T10:02:00Z"}]
                }
            ),
            PodState.READY,
            "",
        ),
    ],
)
def test_state_of_a_pod_is_read_with_its_words(pod: Object, state: PodState, words: str) -> None:
    read = decode_pod(pod)
    assert read is not None
    assert read.state is state
    assert words in read.message


def test_instance_of_a_pod_is_in_its_name() -> None:
    leader, worker = decode_pod(body("qwen-1-server-4-0")), decode_pod(body("qwen-1-server-4-2"))
    assert leader is not None
    assert worker is not None
    assert (leader.index, leader.leads, worker.index, worker.leads) == (4, True, 4, False)


@pytest.mark.parametrize("name", ["qwen-1-server-x", "other", "qwen-1-server-0-0-0", "qwen-1-server-99999999"])
def test_pod_that_no_group_makes_is_left_out(name: str) -> None:
    assert decode_pod(body(name)) is None


@pytest.mark.parametrize("shape", ["", "not json", '{"server": 0}', '{"server": true}', '{"server": 99999999}', "[1]"])
def test_group_without_a_right_shape_has_no_workers(shape: str) -> None:
    read = decode_group(
        {
            "metadata": {
                "name": "g",
                "uid": "u",
                "creationTimestamp": "2026-11-27T10:00:00Z",
                "annotations": {"patio.dev/endpoint-shape": shape},
            },
            "spec": {"roles": [{"name": "server", "replicas": 3}]},
        }
    )
    assert read.workers == 0


def test_container_that_ended_with_an_error_is_failing() -> None:
    read = decode_pod(body(status=containers({"terminated": {"exitCode": 3, "reason": "Error"}})))
    assert read is not None
    assert read.state is PodState.FAILING
    assert "container 'engine' ended with exit code 3" in read.message


def test_pod_without_the_labels_of_a_group_is_left_out() -> None:
    alone = body()
    alone["metadata"]["labels"] = {"app": "other"}
    assert decode_pod(alone) is None

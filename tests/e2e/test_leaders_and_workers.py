"""A leader-worker role under a real kubelet: who finds whom, who gets the sidecar, and what a lost pod costs."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from patio_testing import environment
from patio_testing.environment import ADAPTERS, GROUP_API, PROMPT, lora_adapter, wait_for_adapter, wait_for_pods
from patio_testing.kube import Kube, KubectlError, until
from patio_testing.sample_groups import PARTS

pytestmark = pytest.mark.cluster

SIZE = 3


def group(namespace: str, replicas: int = 1) -> dict[str, Any]:
    """One SGLang of three pods. The command comes up only if address, rank and number are right in all of them."""
    spec = environment.double().pod_spec() | {"terminationGracePeriodSeconds": 30}
    (engine,) = spec["containers"]
    engine |= {
        "image": PARTS,
        "command": ["python3", "-m", "sglang.launch_server"],
        "args": [
            *("--model-path", "/models/model", "--served-model-name", "tiny", "--port", "8000", "--host", "0.0.0.0"),
            *("--enable-lora", "--enable-metrics", "--max-lora-rank", "16"),
            *("--dist-init-addr", "$(RBG_LWP_LEADER_ADDRESS):6379", "--nnodes", "$(LWS_GROUP_SIZE)"),
            *("--node-rank", "$(RBG_LWP_WORKER_INDEX)", "--tokens-per-second", "8"),
        ],
    }
    role = {
        "name": "engine",
        "replicas": replicas,
        "engineRuntimes": [{"profileName": "patio"}],
        "leaderWorkerPattern": {"size": SIZE, "template": {"spec": spec}},
    }
    metadata = {"name": "multi", "namespace": namespace}
    return {"apiVersion": GROUP_API, "kind": "RoleBasedGroup", "metadata": metadata, "spec": {"roles": [role]}}


def test_instance_serves_by_its_leader_and_is_recreated_whole(kube: Kube, make_namespace: Callable[[str], str]) -> None:
    namespace = make_namespace("leaders")
    role = {"group": "multi", "role": "engine"}
    kube.apply(group(namespace), lora_adapter(namespace, "sql", ADAPTERS["lora-a"], roleRef=role))
    before = wait_for_pods(kube, namespace, SIZE, within=60)
    adapter = wait_for_adapter(kube, namespace, "sql")
    assert adapter["status"]["desiredReplicas"] == 1, "adapters are loaded through the leader alone"
    sidecars = {
        pod["metadata"]["name"]: [container["name"] for container in pod["spec"].get("initContainers") or ()]
        for pod in before
    }
    assert sidecars == {"multi-engine-0-0": ["patio"], "multi-engine-0-1": [], "multi-engine-0-2": []}
    assert "sql" in models(kube, namespace)

    with suppress(KubectlError):  # the exec may end with the container that it kills
        kill = "import os, signal; [os.kill(int(one), 9) for one in os.listdir('/proc') if one.isdecimal() and "
        kill += "b'engine_double' in open(f'/proc/{one}/cmdline', 'rb').read()]"
        command = ("/opt/patio/bin/python3", "-c", kill)
        kube.kubectl("-n", namespace, "exec", "multi-engine-0-2", "-c", "engine", "--", *command)
    old = {pod["metadata"]["uid"] for pod in before}
    until(
        "all three pods made anew",
        lambda: {pod["metadata"]["uid"] for pod in kube.pods(namespace)},
        lambda uids: len(uids) == SIZE and not uids & old,
        within=60,
    )
    wait_for_pods(kube, namespace, SIZE, within=60)
    until("the adapter is back", lambda: "sql" in models(kube, namespace), within=30)
    events = until(
        "the event",
        lambda: [
            event["message"] for event in kube.events(namespace, "multi") if event["reason"] == "InstanceRecreated"
        ],
    )
    assert len(events) == 1
    # The others end with it, within the same second.
    assert re.search(r"container engine of pod multi-engine-0-\d restarted", events[0])


def test_running_request_finishes_when_its_instance_scales_down(
    kube: Kube, make_namespace: Callable[[str], str]
) -> None:
    namespace = make_namespace("leaders-scaled")
    kube.apply(group(namespace))
    wait_for_pods(kube, namespace, SIZE, within=60)
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    leader = "multi-engine-0-0"

    def running() -> int:
        state = kube.to_pod("GET", namespace, leader, 8000, "/_double/state").raise_for_status().json()
        return int(state["running"])

    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(kube.to_pod, "POST", namespace, leader, 8000, "/v1/completions", body)
        until("the request runs", running)
        kube.apply(group(namespace, replicas=0))
        answer = request.result()
    assert answer.status_code == 200, answer.text
    assert [choice["finish_reason"] for choice in answer.json()["choices"]] == ["length"]
    until("all pods gone", lambda: not kube.pods(namespace), within=60)


def models(kube: Kube, namespace: str) -> set[str]:
    answer = kube.to_pod("GET", namespace, "multi-engine-0-0", 8000, "/v1/models").raise_for_status()
    return {model["id"] for model in answer.json()["data"]}

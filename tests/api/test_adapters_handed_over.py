"""Two replicas of the operator and LoraAdapters: what a leader that was killed leaves, another one takes over."""

from __future__ import annotations

import json
import time

import pytest

from patio_testing.engine_pods import MakePod, loaded_on, lora_adapter, until_ready
from patio_testing.kube import Kube, condition, until
from patio_testing.operator_process import OperatorProcess

pytestmark = pytest.mark.api

TAKEOVER_SECONDS = 15.0


def test_killed_leader_is_replaced_and_adapters_stay(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str, replicas: list[OperatorProcess]
) -> None:
    pods = [engine_pod(name) for name in "ab"]
    kube.apply(
        lora_adapter(namespace, "placed", adapter_path, replicas=1), lora_adapter(namespace, "everywhere", adapter_path)
    )
    before = loaded_on(until_ready(kube, namespace, "placed", 1))
    everywhere = until_ready(kube, namespace, "everywhere", 2)
    until(
        "labels", lambda: [pod.marks() for pod in pods], lambda found: all("everywhere" in labels for labels in found)
    )
    calls = [len(pod.requests("/v1/load_lora_adapter")) + len(pod.requests("/v1/unload_lora_adapter")) for pod in pods]
    (leader,) = [replica for replica in replicas if replica.leads()]
    leader.kill()
    killed = time.monotonic()
    kube.apply(lora_adapter(namespace, "after", adapter_path, replicas=2))
    until_ready(kube, namespace, "after", 2, within=TAKEOVER_SECONDS + 15)
    acted = time.monotonic() - killed
    print(f"kill -9 of the leader: another one has acted after {acted:.1f} s")
    assert loaded_on(until_ready(kube, namespace, "placed", 1)) == before
    now = until_ready(kube, namespace, "everywhere", 2)
    ready, previous = condition(now, "Ready"), condition(everywhere, "Ready")
    assert ready["lastTransitionTime"] == previous["lastTransitionTime"], "it was Ready all the time"
    assert all("everywhere" in pod.marks() for pod in pods)
    after = [len(pod.requests("/v1/load_lora_adapter")) + len(pod.requests("/v1/unload_lora_adapter")) for pod in pods]
    assert [later - earlier for later, earlier in zip(after, calls, strict=True)] == [1, 1], "what came meanwhile"
    loaded_counts = until(
        "the event",
        lambda: [event["count"] for event in kube.events(namespace, "everywhere") if event["reason"] == "Loaded"],
    )
    assert loaded_counts == [1], json.dumps(loaded_counts)

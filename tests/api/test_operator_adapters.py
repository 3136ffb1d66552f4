"""LoraAdapters against a real API server and real sidecars beside engine doubles. Only the kubelet is missing."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import httpx
import pytest

from patio_testing.engine_pods import MakePod, lora_adapter, until_ready
from patio_testing.kube import Kube, condition, until
from patio_testing.operator_process import OperatorProcess

pytestmark = pytest.mark.api


def _is_ready(kube: Kube, namespace: str, name: str) -> bool:
    return condition(kube.lora_adapter(namespace, name) or {}, "Ready").get("status") == "True"


def _status_writes(kube: Kube, namespace: str, name: str, pods: list[Any], seconds: float) -> list[tuple[float, float]]:
    """Have engines forget their adapters all the time; return between which times the status became another one."""
    times: list[tuple[float, float]] = []
    began = time.monotonic()
    last = kube.lora_adapter(namespace, name) or {}
    end = began + seconds
    pause = threading.Event()
    while (now := time.monotonic()) < end:
        httpx.post(f"{pods[int(now * 10) % len(pods)].engine}/_double/forget").raise_for_status()
        before, began = began, time.monotonic()
        seen = kube.lora_adapter(namespace, name) or {}
        if seen["status"] != last["status"]:
            times.append((before, time.monotonic()))
        last = seen
        pause.wait(0.05)
    return times


@pytest.mark.usefixtures("operator")
def test_adapter_reaches_every_pod_and_those_that_come_later(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    pods = [engine_pod("a"), engine_pod("b")]
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 2)
    pods.append(engine_pod("c"))
    until_ready(kube, namespace, "sql", 3)
    assert all("sql" in pod.models() for pod in pods)
    kube.kubectl("-n", namespace, "delete", "loraadapter", "sql", "--timeout=30s")
    assert all("sql" not in pod.models() for pod in pods)


@pytest.mark.usefixtures("operator")
def test_unreachable_sidecar_is_unknown_until_it_is_back(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    pod = engine_pod("a")
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 1)
    pod.kill("sidecar")
    killed = time.monotonic()
    unknown = until(
        "the state Unknown",
        lambda: kube.lora_adapter(namespace, "sql") or {},
        lambda adapter: adapter["status"]["instances"][0]["state"] == "Unknown",
        within=20,
    )
    elapsed = time.monotonic() - killed
    print(f"kill -9 of a sidecar: Unknown in the status after {elapsed:.1f} s")
    assert condition(unknown, "Ready")["status"] == "False"
    assert condition(unknown, "Ready")["reason"] == "SidecarUnreachable"
    pod.start_sidecar()
    until_ready(kube, namespace, "sql", 1)


@pytest.mark.usefixtures("operator")
def test_adapter_lost_by_engine_shows_and_returns(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    pod = engine_pod("a")
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 1)
    # Loads fail for a while, so that what is lost stays lost for longer than a look takes.
    fault = {"path": "/v1/load_lora_adapter", "status": 503, "body": "busy"}
    httpx.post(f"{pod.engine}/_double/faults", json=fault).raise_for_status()
    httpx.post(f"{pod.engine}/_double/forget").raise_for_status()
    lost = time.monotonic()
    until("not Ready", lambda: not _is_ready(kube, namespace, "sql"), within=20)
    elapsed = time.monotonic() - lost
    print(f"an adapter lost: not Ready after {elapsed:.1f} s")
    httpx.delete(f"{pod.engine}/_double/faults").raise_for_status()
    until_ready(kube, namespace, "sql", 1)


@pytest.mark.usefixtures("operator")
def test_status_is_written_once_a_second_at_most_events_once(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    pods = [engine_pod("a"), engine_pod("b")]
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 2)
    times = _status_writes(kube, namespace, "sql", pods, seconds=6)
    print(f"status writes while an engine loses its adapters all the time: {len(times)} in 6 s")
    assert times
    # A write is seen some time after it is made, and not always as much: they may have been a second apart.
    assert all(seen - not_before >= 1.0 for (not_before, _), (_, seen) in itertools.pairwise(times))
    until_ready(kube, namespace, "sql", 2)
    messages = [event["message"] for event in kube.events(namespace, "sql")]
    assert len(messages) == len(set(messages))


@pytest.mark.usefixtures("operator")
def test_engine_and_sidecar_killed_together_return_with_adapter(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    pod = engine_pod("a")
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 1)
    pod.kill("engine", "sidecar")
    pod.start_engine()
    pod.start_sidecar()
    until("the engine has it again", lambda: "sql" in pod.models(), within=20)
    until_ready(kube, namespace, "sql", 1)


@pytest.mark.usefixtures("operator")
def test_manually_loaded_adapter_stays(kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str) -> None:
    pod = engine_pod("a")
    by_hand = {"lora_name": "mine", "lora_path": adapter_path}
    until("the engine is up", lambda: httpx.get(f"{pod.sidecar}/ready").status_code == 200)
    httpx.post(f"{pod.sidecar}/load_lora_adapter", json=by_hand).raise_for_status()
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 1)
    kube.kubectl("-n", namespace, "delete", "loraadapter", "sql", "--timeout=30s")
    assert pod.models() == {"tiny", "mine"}


def test_operator_restarted_after_a_kill_finds_missed_changes(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str, operator: OperatorProcess
) -> None:
    pod = engine_pod("a")
    kube.apply(lora_adapter(namespace, "old", adapter_path))
    until_ready(kube, namespace, "old", 1)
    operator.kill()
    kube.kubectl("-n", namespace, "delete", "loraadapter", "old", "--wait=false")
    kube.apply(lora_adapter(namespace, "new", adapter_path))
    assert pod.models() == {"tiny", "old"}
    operator.start()
    until_ready(kube, namespace, "new", 1)
    until("the old one is gone", lambda: kube.lora_adapter(namespace, "old") is None, within=20)
    assert pod.models() == {"tiny", "new"}


@pytest.mark.usefixtures("operator")
def test_unreachable_pod_delays_a_deletion_only_up_to_its_bound(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    answering, unreachable = engine_pod("a"), engine_pod("b")
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 2)
    unreachable.kill("sidecar")
    kube.kubectl("-n", namespace, "delete", "loraadapter", "sql", "--wait=false")
    deleted = time.monotonic()
    until("the pod that answers has let go of it", lambda: "sql" not in answering.models(), within=20)
    assert kube.lora_adapter(namespace, "sql") is not None
    until("it is gone", lambda: kube.lora_adapter(namespace, "sql") is None, within=45)
    elapsed = time.monotonic() - deleted
    print(f"deleted with a pod out of reach: gone after {elapsed:.1f} s")
    assert elapsed > 25  # the bound is 30 s; how much later the deletion is seen is the machine's matter
    (left,) = until(
        "the event",
        lambda: [
            event["message"] for event in kube.events(namespace, "sql") if event["reason"] == "UnloadNotConfirmed"
        ],
        within=20,
    )
    assert "without confirmation from b" in left
    unreachable.start_sidecar()
    until("what was left is unloaded", lambda: "sql" not in unreachable.models(), within=20)


@pytest.mark.usefixtures("operator")
def test_younger_of_two_with_one_name_reports_a_conflict(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    engine_pod("a")
    kube.apply(lora_adapter(namespace, "first", adapter_path))
    until_ready(kube, namespace, "first", 1)
    rival = lora_adapter(namespace, "second", adapter_path)
    rival["spec"]["adapterName"] = "first"
    kube.apply(rival)
    adapter = until(
        "the rival's verdict",
        lambda: condition(kube.lora_adapter(namespace, "second") or {}, "Ready"),
        lambda ready: ready.get("reason") == "NameTaken",
    )
    assert f"LoraAdapter/{namespace}/first" in adapter["message"]

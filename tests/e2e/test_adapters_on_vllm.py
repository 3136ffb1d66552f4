"""The issue's promise, on the real thing: a real vLLM in a real pod, killed, scaled, and asked through its adapter."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from patio_testing import environment
from patio_testing.environment import (
    ADAPTERS,
    BASE_MODEL,
    PROMPT,
    Engine,
    deployment,
    group,
    log_progress,
    lora_adapter,
    wait_for_adapter,
    wait_for_pods,
)
from patio_testing.kube import Kube, KubectlError, condition, is_ready, until
from patio_testing.scale_up import grow

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

KILL = """
import os, signal
for pid in set(filter(str.isdecimal, os.listdir("/proc"))) - {str(os.getpid())}:
    with open(f"/proc/{pid}/cmdline", "rb") as command:
        if b"vllm.entrypoints.cli.main" in command.read():
            os.kill(int(pid), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def vllm() -> Engine:
    """The real vLLM."""
    return environment.vllm(log_progress)


@pytest.fixture(scope="module")
def namespace(kube: Kube, vllm: Engine, make_namespace: Callable[[str], str]) -> str:
    """A namespace with a group of one vLLM and the adapter `lora-a`, both Ready."""
    name = make_namespace("vllm")
    kube.apply(group(vllm, name), lora_adapter(name, "lora-a", ADAPTERS["lora-a"]))
    wait_for_pods(kube, name, 1, within=300)
    wait_for_adapter(kube, name, "lora-a")
    return name


def test_adapter_answers_otherwise_than_the_base_model(kube: Kube, namespace: str) -> None:
    base = kube.complete(namespace, "demo-worker-0", BASE_MODEL, PROMPT)
    assert kube.complete(namespace, "demo-worker-0", "lora-a", PROMPT) != base


def test_adapter_is_loaded_and_unloaded_with_its_object(kube: Kube, namespace: str) -> None:
    kube.apply(lora_adapter(namespace, "lora-b", ADAPTERS["lora-b"]))
    wait_for_adapter(kube, namespace, "lora-b")
    answers = {
        model_name: kube.complete(namespace, "demo-worker-0", model_name, PROMPT)
        for model_name in (BASE_MODEL, "lora-a", "lora-b")
    }
    assert len(set(answers.values())) == 3, answers
    kube.kubectl("-n", namespace, "delete", "loraadapter", "lora-b", "--timeout=30s")
    assert set(kube.models(namespace, "demo-worker-0")) == {BASE_MODEL, "lora-a"}


def test_missing_path_is_reported_by_vllm_and_recovers(kube: Kube, namespace: str) -> None:
    kube.apply(lora_adapter(namespace, "lost", "/models/adapters/nowhere"))
    failed = until(
        "LoraAdapter lost Degraded",
        lambda: kube.lora_adapter(namespace, "lost") or {},
        lambda adapter: condition(adapter, "Degraded").get("status") == "True",
    )
    assert "No adapter found for /models/adapters/nowhere" in condition(failed, "Ready")["message"]
    warnings = until(
        "a warning about it",
        lambda: [event["message"] for event in kube.events(namespace, "lost") if event["type"] == "Warning"],
        within=10,
    )
    assert "No adapter found for /models/adapters/nowhere" in warnings[0]
    kube.apply(lora_adapter(namespace, "lost", ADAPTERS["lora-b"]))
    wait_for_adapter(kube, namespace, "lost")
    kube.kubectl("-n", namespace, "delete", "loraadapter", "lost", "--timeout=30s")


def test_bad_adapters_say_why_once_and_delay_no_good_one(kube: Kube, namespace: str) -> None:
    """The bad ones of the recordings, declared together with ten good ones."""
    bad = {name: f"/models/adapters/bad/{name}" for name in ("rank-32", "truncated", "dora")}
    bad |= {"missing": "/models/adapters/nowhere"}
    good = {f"good-{number}": ADAPTERS[("lora-a", "lora-b")[number % 2]] for number in range(10)}
    declared = [lora_adapter(namespace, name, path) for name, path in {**bad, **good}.items()]
    base_name = lora_adapter(namespace, "base-name", ADAPTERS["lora-a"], adapterName=BASE_MODEL)
    started = time.monotonic()
    kube.apply(base_name, *declared)
    for name in good:
        wait_for_adapter(kube, namespace, name)
    log_progress(
        f"ten good adapters beside five bad ones on a live vLLM: Ready after {time.monotonic() - started:.1f} s"
    )
    causes = {
        "rank-32": "rank",
        "truncated": "header",
        "dora": "DoRA",
        "missing": "No adapter found",
        "base-name": "conflicts with a served base model",
    }
    for name, cause in causes.items():
        failed = until(
            f"{name} told as failed",
            lambda name=name: kube.lora_adapter(namespace, name) or {},
            lambda adapter: condition(adapter, "Degraded").get("status") == "True",
            within=20,
        )
        assert cause in condition(failed, "Ready")["message"]
        warnings = until(
            f"the warning about {name}",
            lambda name=name: [event for event in kube.events(namespace, name) if event["type"] == "Warning"],
            within=10,
        )
        assert [(cause in warning["message"], warning.get("count", 1)) for warning in warnings] == [(True, 1)]
    kube.kubectl("-n", namespace, "delete", "lora", "base-name", *bad, *good, "--timeout=60s")
    assert set(kube.models(namespace, "demo-worker-0")) == {BASE_MODEL, "lora-a"}


def test_metrics_of_a_real_vllm_come_out_under_patios_names(kube: Kube, namespace: str) -> None:
    text = kube.to_pod("GET", namespace, "demo-worker-0", 9091, "/metrics").text
    for name in (
        *("num_requests_running", "num_requests_waiting", "input_tokens_total", "output_tokens_total"),
        *("generation_tokens_total", "time_to_first_token_seconds_count", "inter_token_latency_seconds_count"),
        "time_per_output_token_seconds_count",
    ):
        assert f"\npatio:{name}{{" in text, name


def test_killed_vllm_gets_its_adapter_back_and_status_follows(kube: Kube, namespace: str) -> None:
    with suppress(KubectlError):  # the exec may end with the container that it kills
        kube.kubectl("-n", namespace, "exec", "demo-worker-0", "-c", "engine", "--", "python3", "-c", KILL)
    until(
        "LoraAdapter lora-a not Ready",
        lambda: kube.lora_adapter(namespace, "lora-a"),
        lambda adapter: adapter is not None and not is_ready(adapter),
        within=15,
    )
    wait_for_adapter(kube, namespace, "lora-a", within=300)
    kube.complete(namespace, "demo-worker-0", "lora-a", PROMPT)
    (pod,) = wait_for_pods(kube, namespace, 1, within=10)
    assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [1]


def test_second_pod_is_not_ready_before_it_serves_the_adapter(kube: Kube, namespace: str, vllm: Engine) -> None:
    kube.apply(group(vllm, namespace, replicas=2))

    def look() -> bool:
        pod = kube.get(f"/api/v1/namespaces/{namespace}/pods/demo-worker-1")
        if not pod or not is_ready(pod):
            return False
        assert "lora-a" in kube.models(namespace, "demo-worker-1"), "Ready, though the adapter is not there"
        return True

    until("demo-worker-1 Ready", look, within=300)
    base = kube.complete(namespace, "demo-worker-1", BASE_MODEL, PROMPT)
    assert kube.complete(namespace, "demo-worker-1", "lora-a", PROMPT) != base
    both = until(
        "both pods counted",
        lambda: kube.lora_adapter(namespace, "lora-a"),
        lambda adapter: adapter is not None and (adapter.get("status") or {}).get("readyReplicas") == 2,
        within=10,
    )
    assert is_ready(both or {})


@pytest.mark.skipif(os.environ.get("PATIO_TEST_VLLM_FLEET") != "1", reason="six vLLMs: with PATIO_TEST_VLLM_FLEET=1")
def test_fleet_scaled_to_six_has_adapters_before_pods_are_ready(
    kube: Kube, vllm: Engine, make_namespace: Callable[[str], str]
) -> None:
    name = make_namespace("vllm-fleet")
    fleet = {"matchLabels": {"app": "fleet"}}
    kube.apply(
        deployment(vllm, name, "fleet", 2),
        *(lora_adapter(name, adapter_name, path, selector=fleet) for adapter_name, path in ADAPTERS.items()),
    )
    wait_for_pods(kube, name, 2, within=400)
    seconds = grow(kube, name, "fleet", 6, set(ADAPTERS), within=700)
    log_progress(
        f"from a live vLLM that answers to both adapters: {', '.join(f'{second:.2f} s' for second in seconds)}"
    )
    wait_for_pods(kube, name, 6, within=60)
    for adapter_name in ADAPTERS:
        assert wait_for_adapter(kube, name, adapter_name)["status"]["readyReplicas"] == 6

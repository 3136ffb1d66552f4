"""LoraAdapters where the engine is SGLang (its double): its names in requests, evictions, unloads that do not stick."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from patio_testing.environment import (
    ADAPTERS,
    BASE_MODEL,
    PROMPT,
    deployment,
    double_sglang,
    lora_adapter,
    wait_for_adapter,
    wait_for_pods,
)
from patio_testing.kube import Kube, condition, is_ready, until

pytestmark = pytest.mark.cluster

SGLANG = {"matchLabels": {"app": "sglang"}}


@pytest.fixture(scope="module")
def namespace(kube: Kube, make_namespace: Callable[[str], str]) -> str:
    """A namespace with one SGLang that keeps two adapters, and one adapter in it."""
    name = make_namespace("sglang")
    kube.apply(
        deployment(double_sglang(max_loaded_loras="2"), name, "sglang", 1),
        lora_adapter(name, "first", ADAPTERS["lora-a"], selector=SGLANG),
    )
    wait_for_pods(kube, name, 1, within=60)
    wait_for_adapter(kube, name, "first")
    return name


def pod_of(kube: Kube, namespace: str) -> str:
    (pod,) = kube.pods(namespace)
    name: str = pod["metadata"]["name"]
    return name


def test_requests_name_base_and_adapter(kube: Kube, namespace: str) -> None:
    pod = pod_of(kube, namespace)
    base = kube.complete(namespace, pod, BASE_MODEL, PROMPT)
    assert kube.complete(namespace, pod, f"{BASE_MODEL}:first", PROMPT) != base
    assert kube.complete(namespace, pod, "first", PROMPT) == base, "SGLang answers a bare name from the base model"
    reports = kube.to_pod("GET", namespace, pod, 9091, "/v1/lora_adapters").json()["adapters"]
    assert [report["model"] for report in reports] == [f"{BASE_MODEL}:first"]


def test_adapter_too_many_waits_and_evicts_none(kube: Kube, namespace: str) -> None:
    kube.apply(
        lora_adapter(namespace, "second", ADAPTERS["lora-b"], selector=SGLANG),
    )
    wait_for_adapter(kube, namespace, "second")
    kube.apply(lora_adapter(namespace, "third", ADAPTERS["lora-b"], selector=SGLANG))
    waiting = until(
        "the third waits for room",
        lambda: kube.lora_adapter(namespace, "third") or {},
        lambda adapter: condition(adapter, "Ready").get("status") == "False" and adapter["status"]["instances"],
        within=20,
    )
    assert waiting["status"]["instances"][0]["reason"] == "NoCapacity"
    assert {"first", "second"} <= set(kube.models(namespace, pod_of(kube, namespace)))
    kube.kubectl("-n", namespace, "delete", "lora", "second", "--timeout=30s")
    wait_for_adapter(kube, namespace, "third")


def test_one_that_the_engine_evicted_is_noticed_and_comes_back(kube: Kube, namespace: str) -> None:
    pod = pod_of(kube, namespace)
    kube.to_pod("POST", namespace, pod, 8000, "/load_lora_adapter", load("foreign", "lora-a"))
    until(
        "the status tells",
        lambda: [name for name in ("first", "third") if not is_ready(kube.lora_adapter(namespace, name) or {})],
        within=15,
    )
    kube.to_pod("POST", namespace, pod, 8000, "/unload_lora_adapter", {"lora_name": "foreign"})
    for name in ("first", "third"):
        wait_for_adapter(kube, namespace, name, within=60)


def test_deleted_adapter_stays_away_though_a_request_reloads_it(kube: Kube, namespace: str) -> None:
    """SGLang loads an adapter again that it has unloaded when a request asks for it."""
    pod = pod_of(kube, namespace)
    kube.kubectl("-n", namespace, "delete", "lora", "third", "--timeout=30s")
    kube.complete(namespace, pod, f"{BASE_MODEL}:third", PROMPT)
    until("it is unloaded again", lambda: "third" not in kube.models(namespace, pod), within=15)
    wait_for_adapter(kube, namespace, "first")


def load(name: str, adapter: str) -> dict[str, str]:
    """Return the body of a load call."""
    return {"lora_name": name, "lora_path": ADAPTERS[adapter]}

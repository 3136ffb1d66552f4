"""Autoscalers that people have scale engines and adapters up under load and down again, and no request is lost.

KEDA reads what a real Prometheus scraped from the sidecars. Its objects are those of the example for KEDA, with the
namespace and the model of the test, and with short pauses before they scale down. A HorizontalPodAutoscaler alone reads
metrics-server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from patio_testing import autoscalers
from patio_testing.environment import (
    ADAPTERS,
    BASE_MODEL,
    ROOT,
    Engine,
    deployment,
    double,
    log_progress,
    lora_adapter,
    wait_for_adapter,
    wait_for_pods,
)
from patio_testing.kube import Kube, until
from patio_testing.load_client import load, start_clients
from patio_testing.prometheus import Prometheus

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("PATIO_TEST_LONG") != "1", reason="builds KEDA: PATIO_TEST_LONG=1"),
]

EXAMPLE = ROOT / "examples" / "keda" / "scaledobjects.yaml"
STEADY = "steady-clients"
MOST = 4
TOKENS = (40, 80)
AT_ONCE = 4
"""Requests that an engine runs at a time."""
CLIENTS = 20
"""More than all engines run at a time."""
SOON = {"stabilizationWindowSeconds": 15, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}


@pytest.fixture(scope="module")
def engine() -> Engine:
    """An engine that is soon busy."""
    return double(tokens_per_second="20", max_num_seqs=str(AT_ONCE))


@pytest.fixture(scope="module")
def fast() -> Engine:
    """An engine that takes enough processor time to be seen."""
    return double(tokens_per_second="200", max_num_seqs=str(AT_ONCE))


@pytest.fixture(scope="module")
def keda(kube: Kube, monitored: Prometheus) -> Iterator[None]:
    autoscalers.install_keda(kube, log_progress)
    yield
    kube.kubectl("delete", "scaledobjects", "--all", "--all-namespaces", "--wait=true", "--timeout=60s")
    autoscalers.remove_keda(kube)


@pytest.fixture(scope="module")
def steady(kube: Kube, make_namespace: Callable[[str], str]) -> str:
    """A namespace with a client of its own, for the requests that go on while the load ends."""
    start_clients(kube, make_namespace(STEADY))
    return STEADY


def scaled_object(name: str, namespace: str) -> dict[str, Any]:
    """Return an object of the example for a namespace of the test."""
    text = EXAMPLE.read_text().replace('namespace="default"', f'namespace="{namespace}"')
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(text.replace("qwen3-8b", BASE_MODEL)))
    (found,) = [manifest for manifest in objects if manifest["metadata"]["name"] == name]
    found["metadata"]["namespace"] = namespace
    found["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"] = SOON
    return found


def service(namespace: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8000}]},
    }


class Timeline:
    """The replicas of an object over time: asked for, and ready."""

    def __init__(self, look: Callable[[], tuple[int, int]]) -> None:
        self._look, self._began = look, time.monotonic()
        self._seen: list[tuple[float, int, int]] = []

    def __call__(self) -> tuple[int, int]:
        """Look, and keep what has changed."""
        wanted, ready = self._look()
        if not self._seen or self._seen[-1][1:] != (wanted, ready):
            self._seen.append((time.monotonic() - self._began, wanted, ready))
        return wanted, ready

    def __str__(self) -> str:
        return " | ".join(f"{second:.0f} s: {ready}/{wanted}" for second, wanted, ready in self._seen)

    @property
    def wanted(self) -> list[int]:
        """How many replicas were asked for, one after the other."""
        every = [wanted for _, wanted, _ in self._seen]
        return [replicas for replicas, before in zip(every, [None, *every], strict=False) if replicas != before]


def up_and_down(
    kube: Kube, namespace: str, url: str, model: str, timeline: Timeline, within: float = 240.0
) -> list[str]:
    """Load until there are as many replicas as may be, then only one client until one is left; return what was lost."""
    with load(kube, STEADY, url, model=model, tokens=TOKENS, clients=1) as calm:
        with load(kube, namespace, url, model=model, tokens=TOKENS, clients=CLIENTS) as rush:
            until("all replicas are there", timeline, lambda seen: seen == (MOST, MOST), within=within)
            full = time.monotonic()
            until("they stay under load", lambda: (timeline(), time.monotonic() - full), lambda seen: seen[1] > 20)
            assert timeline() == (MOST, MOST), "scaled down under load"
        until("one replica is left", timeline, lambda seen: seen == (1, 1), within=within)
    log_progress(f"{namespace}, ready/wanted: {timeline}; served {rush.served(url)} and {calm.served(url)}")
    assert rush.served(url) > CLIENTS
    assert calm.served(url) > 5
    return [*rush.lost(url), *calm.lost(url)]


def of_deployment(kube: Kube, namespace: str, name: str) -> Callable[[], tuple[int, int]]:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"

    def look() -> tuple[int, int]:
        found = kube.get(path)
        return found["spec"]["replicas"], found["status"].get("readyReplicas", 0)

    return look


def of_adapter(kube: Kube, namespace: str, name: str) -> Callable[[], tuple[int, int]]:
    def look() -> tuple[int, int]:
        found = kube.lora_adapter(namespace, name) or {}
        return found["spec"]["replicas"], found.get("status", {}).get("readyReplicas", 0)

    return look


def start_adapter(kube: Kube, engine: Engine, namespace: str) -> None:
    """Make as many engines as there may be, the adapter `translator` on one of them, and a pod for the clients."""
    everyone = {"matchLabels": {"app": "qwen"}}
    kube.apply(
        deployment(engine, namespace, "qwen", MOST),
        lora_adapter(namespace, "translator", ADAPTERS["lora-a"], selector=everyone, replicas=1, service=True),
    )
    wait_for_pods(kube, namespace, MOST, within=90)
    wait_for_adapter(kube, namespace, "translator")
    start_clients(kube, namespace)


def test_keda_scales_engines_and_no_request_is_lost(
    kube: Kube, engine: Engine, keda: None, steady: str, make_namespace: Callable[[str], str]
) -> None:
    namespace = make_namespace("autoscaled-engines")
    kube.apply(deployment(engine, namespace, "qwen", 1), service(namespace, "qwen"))
    wait_for_pods(kube, namespace, 1, within=60)
    start_clients(kube, namespace)
    kube.apply(scaled_object("qwen", namespace))
    timeline = Timeline(of_deployment(kube, namespace, "qwen"))
    lost = up_and_down(kube, namespace, f"http://qwen.{namespace}", BASE_MODEL, timeline)
    kube.kubectl("-n", namespace, "delete", "scaledobject", "qwen", "--wait=true", "--timeout=60s")
    assert lost == []
    assert timeline.wanted[0] == timeline.wanted[-1] == 1


def test_keda_scales_an_adapter_and_no_request_is_lost(
    kube: Kube, engine: Engine, keda: None, steady: str, make_namespace: Callable[[str], str]
) -> None:
    namespace = make_namespace("autoscaled-adapter")
    start_adapter(kube, engine, namespace)
    kube.apply(scaled_object("translator", namespace))
    timeline = Timeline(of_adapter(kube, namespace, "translator"))
    lost = up_and_down(kube, namespace, f"http://translator.{namespace}", "translator", timeline)
    kube.kubectl("-n", namespace, "delete", "scaledobject", "translator", "--wait=true", "--timeout=60s")
    assert lost == []
    assert timeline.wanted[0] == timeline.wanted[-1] == 1


@pytest.fixture(scope="module")
def metrics_server(kube: Kube) -> Iterator[None]:
    autoscalers.install_metrics_server(kube, log_progress)
    yield
    autoscalers.remove_metrics_server(kube)


def test_autoscaler_on_metrics_server_scales_engines(
    kube: Kube, fast: Engine, metrics_server: None, steady: str, make_namespace: Callable[[str], str]
) -> None:
    """A HorizontalPodAutoscaler alone, on the processor time of the engine's container: the double has no GPU."""
    namespace = make_namespace("autoscaled-by-cpu")
    kube.apply(
        deployment(fast, namespace, "qwen", 1),
        service(namespace, "qwen"),
        on_processor_time(namespace, "qwen", "apps/v1", "Deployment"),
    )
    wait_for_pods(kube, namespace, 1, within=60)
    start_clients(kube, namespace)
    until("the engine is measured", lambda: processor_time(kube, namespace), within=90)
    timeline = Timeline(of_deployment(kube, namespace, "qwen"))
    lost = up_and_down(kube, namespace, f"http://qwen.{namespace}", BASE_MODEL, timeline)
    assert lost == []


def test_autoscaler_on_metrics_server_scales_an_adapter(
    kube: Kube, fast: Engine, metrics_server: None, steady: str, make_namespace: Callable[[str], str]
) -> None:
    """The selector of its scale subresource names the pods that have the adapter, and these alone are measured."""
    namespace = make_namespace("adapter-by-cpu")
    start_adapter(kube, fast, namespace)
    until("the engines are measured", lambda: len(processor_time(kube, namespace)) == MOST, within=90)
    kube.apply(on_processor_time(namespace, "translator", "patio.dev/v1alpha1", "LoraAdapter"))
    timeline = Timeline(of_adapter(kube, namespace, "translator"))
    lost = up_and_down(kube, namespace, f"http://translator.{namespace}", "translator", timeline)
    assert lost == []


def on_processor_time(namespace: str, name: str, version: str, kind: str) -> dict[str, Any]:
    resource = {"name": "cpu", "container": "engine", "target": {"type": "AverageValue", "averageValue": "40m"}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": version, "kind": kind, "name": name},
            "minReplicas": 1,
            "maxReplicas": MOST,
            "metrics": [{"type": "ContainerResource", "containerResource": resource}],
            "behavior": {"scaleDown": SOON},
        },
    }


def processor_time(kube: Kube, namespace: str) -> list[str]:
    """Return what metrics-server says of the engines' containers."""
    found = kube.get(f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods") or {"items": []}
    containers = [container for pod in found["items"] for container in pod["containers"]]
    return [container["usage"]["cpu"] for container in containers if container["name"] == "engine"]

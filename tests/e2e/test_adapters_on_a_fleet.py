"""LoraAdapters on a Deployment that grows and shrinks, with the engine double: on every pod, or on some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from patio_testing.environment import (
    ADAPTERS,
    Engine,
    deployment,
    load_manually,
    log_progress,
    lora_adapter,
    wait_for_adapter,
    wait_for_pods,
)
from patio_testing.kube import Kube, condition, is_ready, until
from patio_testing.scale_up import grow

pytestmark = pytest.mark.cluster

FLEET = {"matchLabels": {"app": "fleet"}}
BEYOND_THE_LOAD = 4.0
"""Seconds from an engine's being ready to an adapter that takes no time to load. The goal is one, which a machine that
starts four pods at once on two busy cores may miss: what it was is printed."""


@pytest.fixture(scope="module")
def namespace(kube: Kube, double: Engine, make_namespace: Callable[[str], str]) -> str:
    """A namespace with two engines and two adapters for all there are."""
    name = make_namespace("fleet")
    kube.apply(
        deployment(double, name, "fleet", 2),
        lora_adapter(name, "first", ADAPTERS["lora-a"], selector=FLEET),
        lora_adapter(name, "second", ADAPTERS["lora-b"], selector=FLEET),
    )
    wait_for_pods(kube, name, 2, within=60)
    for adapter in ("first", "second"):
        wait_for_adapter(kube, name, adapter)
    return name


@pytest.fixture(scope="module")
def by_hand(kube: Kube, namespace: str) -> str:
    """A pod on which somebody loads an adapter by hand before anything else happens."""
    pod: str = kube.pods(namespace)[0]["metadata"]["name"]
    load_manually(kube, namespace, pod, "by-hand", ADAPTERS["lora-b"])
    return pod


def test_each_new_pod_has_its_adapters_before_it_is_ready(kube: Kube, namespace: str, by_hand: str) -> None:
    seconds = grow(kube, namespace, "fleet", 6, {"first", "second"}, within=90)
    log_progress(f"from an engine that answers to both adapters: {', '.join(f'{second:.2f} s' for second in seconds)}")
    assert max(seconds) <= BEYOND_THE_LOAD
    wait_for_pods(kube, namespace, 6, within=60)
    for adapter in ("first", "second"):
        until(
            f"{adapter} Ready on six pods",
            lambda name=adapter: kube.lora_adapter(namespace, name) or {},
            lambda adapter: is_ready(adapter) and adapter["status"]["readyReplicas"] == 6,
            within=10,
        )


def test_replicas_are_placed_and_only_lost_ones_are_placed_again(kube: Kube, namespace: str, by_hand: str) -> None:
    kube.kubectl("-n", namespace, "scale", "deployment/fleet", "--replicas=10")
    wait_for_pods(kube, namespace, 10, within=120)
    kube.apply(lora_adapter(namespace, "some", ADAPTERS["lora-a"], selector=FLEET, replicas=3))
    before = instances(placed(kube, namespace, "some", 3))
    assert having(kube, namespace, "some") == set(before)

    lost = sorted(before, key=lambda pod: (pod == by_hand, pod))[:2]
    kube.kubectl("-n", namespace, "delete", "pod", *lost, "--wait=true", "--timeout=60s")
    after = instances(
        until(
            "three again, on other pods",
            lambda: kube.lora_adapter(namespace, "some") or {},
            lambda adapter: is_ready(adapter) and not set(lost) & set(instances(adapter)),
            within=30,
        )
    )
    (kept,) = set(before) - set(lost)
    assert after[kept] == before[kept], "what was not lost was not touched"
    wait_for_pods(kube, namespace, 10, within=120)
    assert instances(placed(kube, namespace, "some", 3)) == after, "nothing moves for the pods that came back"


def test_kubectl_scale_changes_how_many_pods_have_it(kube: Kube, namespace: str) -> None:
    before = having(kube, namespace, "some")
    kube.kubectl("-n", namespace, "scale", "lora/some", "--replicas=5")
    placed(kube, namespace, "some", 5)
    more = having(kube, namespace, "some")
    assert len(more) == 5
    assert before < more, "those that have it keep it"
    kube.kubectl("-n", namespace, "scale", "lora/some", "--replicas=2")
    placed(kube, namespace, "some", 2)
    until("two pods have it", lambda: having(kube, namespace, "some"), lambda fewer: len(fewer) == 2 and fewer < more)


def test_horizontal_pod_autoscaler_changes_how_many_pods_have_it(kube: Kube, namespace: str) -> None:
    """Used are those of its decisions that need no metrics server: not below its minimum, not above its maximum."""
    for least, highest, expected in ((5, 9, 5), (1, 2, 2)):
        kube.apply(autoscaler(namespace, "some", least, highest))
        placed(kube, namespace, "some", expected, within=60)
    kube.kubectl("-n", namespace, "delete", "hpa", "some")
    labelled = {pod["metadata"]["name"] for pod in kube.pods(namespace, "lora.patio.dev/some=loaded")}
    until(
        "only pods with the label have it", lambda: having(kube, namespace, "some"), lambda current: current == labelled
    )


def test_manually_loaded_adapter_is_there_after_all_of_this(kube: Kube, namespace: str, by_hand: str) -> None:
    kube.apply(lora_adapter(namespace, "by-hand", ADAPTERS["lora-a"], selector=FLEET))
    clash = until(
        "the clash is told",
        lambda: kube.lora_adapter(namespace, "by-hand") or {},
        lambda adapter: condition(adapter, "Degraded").get("reason") == "NameTaken",
        within=20,
    )
    assert by_hand in condition(clash, "Degraded")["message"]
    for name in ("by-hand", "some", "second"):
        kube.kubectl("-n", namespace, "delete", "lora", name, "--timeout=30s")
    assert kube.models(namespace, by_hand)["by-hand"] == ADAPTERS["lora-b"]


def placed(kube: Kube, namespace: str, name: str, replicas: int, within: float = 30.0) -> dict[str, Any]:
    """Wait until a LoraAdapter is Ready on so many pods."""
    return until(
        f"{name} Ready on {replicas} pods",
        lambda: kube.lora_adapter(namespace, name) or {},
        lambda adapter: (
            is_ready(adapter) and adapter["status"]["readyReplicas"] == adapter["status"]["desiredReplicas"] == replicas
        ),
        within=within,
    )


def instances(adapter: Mapping[str, Any]) -> dict[str, str]:
    """Return since when each pod has been in its state, by pod."""
    return {instance["pod"]: instance["since"] for instance in adapter["status"]["instances"]}


def having(kube: Kube, namespace: str, adapter: str) -> set[str]:
    """Return the pods whose engine lists an adapter."""
    names = [pod["metadata"]["name"] for pod in kube.pods(namespace) if "deletionTimestamp" not in pod["metadata"]]
    return {name for name in names if adapter in kube.models(namespace, name)}


def autoscaler(namespace: str, adapter: str, least: int, highest: int) -> dict[str, Any]:
    """Return a HorizontalPodAutoscaler of a LoraAdapter."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": adapter, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "patio.dev/v1alpha1", "kind": "LoraAdapter", "name": adapter},
            "minReplicas": least,
            "maxReplicas": highest,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                }
            ],
        },
    }

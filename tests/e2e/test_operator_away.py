"""The operator is deleted, uninstalled and installed again: pods run on, pods can be made, and it picks them all up."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from patio_testing import environment
from patio_testing.environment import (
    ADAPTERS,
    PROMPT,
    SYSTEM_NAMESPACE,
    Engine,
    group,
    lora_adapter,
    wait_for_adapter,
    wait_for_pods,
)
from patio_testing.kube import Kube, KubectlError, until

pytestmark = pytest.mark.cluster

PODS = ("demo-worker-0", "demo-worker-1")


@pytest.fixture(autouse=True)
def installed_after(kube: Kube, staged: environment.Environment) -> Iterator[None]:
    """Whatever happens here, the other tests have an operator again."""
    yield
    environment.install_patio(kube, staged, environment.log_progress)


def lives(kube: Kube, namespace: str) -> dict[str, tuple[str, list[int]]]:
    """Return who the pods are, and how often their containers were started again."""
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            [
                status["restartCount"]
                for kind in ("containerStatuses", "initContainerStatuses")
                for status in pod["status"].get(kind) or ()
            ],
        )
        for pod in kube.pods(namespace)
        if pod["metadata"]["name"] in PODS
    }


def answers(kube: Kube, namespace: str) -> list[str]:
    return [kube.complete(namespace, pod, "sql", PROMPT) for pod in PODS]


def pod(namespace: str, name: str, engine: Engine, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": engine.pod_spec()}


def test_pods_outlive_the_operator_and_a_new_one_picks_them_up(
    kube: Kube, staged: environment.Environment, double: Engine, make_namespace: Callable[[str], str]
) -> None:
    namespace = make_namespace("away")
    labels = {"patio.dev/profile": "patio"}
    kube.apply(group(double, namespace, replicas=2), lora_adapter(namespace, "sql", ADAPTERS["lora-a"]))
    wait_for_pods(kube, namespace, 2, within=60)
    wait_for_adapter(kube, namespace, "sql")
    before, completions = lives(kube, namespace), answers(kube, namespace)

    # Deleted: its webhook is still there, and holds up those who ask for the sidecar, nobody else.
    kube.kubectl("-n", SYSTEM_NAMESPACE, "delete", "deployment", "patio-operator", "--wait=true")
    until("no operator", lambda: kube.pods(SYSTEM_NAMESPACE), lambda pods: not pods, within=60)
    assert (lives(kube, namespace), answers(kube, namespace)) == (before, completions)
    kube.apply(pod(namespace, "plain", double))
    with pytest.raises(KubectlError, match="failed calling webhook"):
        kube.apply(pod(namespace, "asking", double, **labels))

    # Uninstalled: nothing is left that holds anybody up, and nobody is told to end.
    command = [staged.helm, "--kubeconfig", kube.kubeconfig, "uninstall", "patio", "--namespace", SYSTEM_NAMESPACE]
    completed = subprocess.run([*command, "--wait"], capture_output=True, text=True, check=False, timeout=120)
    assert completed.returncode == 0, completed.stderr
    kube.apply(pod(namespace, "asking", double, **labels))
    (asking,) = [pod for pod in kube.pods(namespace) if pod["metadata"]["name"] == "asking"]
    assert not asking["spec"].get("initContainers"), "there is no one who could have injected it"
    assert (lives(kube, namespace), answers(kube, namespace)) == (before, completions)
    wait_for_pods(kube, namespace, 4, within=30)

    # An adapter needs no operator to come back after its engine crashed.
    kube.to_pod("POST", namespace, PODS[0], 8000, "/_double/crash")
    until("the adapter is back", lambda: answers(kube, namespace) == completions, within=30)

    # Installed again.
    environment.install_patio(kube, staged, environment.log_progress)
    kube.kubectl("-n", namespace, "delete", "pod", "asking", "plain")
    kube.apply(group(double, namespace, replicas=3))
    pods = wait_for_pods(kube, namespace, 3, within=60)
    assert {pod["metadata"]["uid"] for pod in pods} > {uid for uid, _ in before.values()}
    assert all(pod["spec"]["initContainers"] for pod in pods)
    adapter = until(
        "the adapter is counted on all three",
        lambda: kube.lora_adapter(namespace, "sql") or {},
        lambda adapter: (adapter.get("status") or {}).get("readyReplicas") == 3,
        within=30,
    )
    assert adapter["status"]["desiredReplicas"] == 3
    kube.apply(lora_adapter(namespace, "second", ADAPTERS["lora-b"]))
    wait_for_adapter(kube, namespace, "second")

"""A release from a registry on a cluster that has nothing of Patio, then an upgrade to this tree and the way back.

The kubelet pulls the released images by their digests. Upgrade and rollback happen while three adapters answer
requests: no adapter is unloaded, and no request is lost.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

import e2e_cluster
from patio_testing import demo, environment
from patio_testing.environment import (
    ADAPTERS,
    ROOT,
    SYSTEM_NAMESPACE,
    Environment,
    deployment,
    double,
    log_progress,
    lora_adapter,
    wait_for_adapter,
    wait_for_pods,
)
from patio_testing.kube import Kube, until
from patio_testing.load_client import load, start_clients
from patio_testing.release.rehearsal import Stage, stage
from patio_testing.tutorial import steps
from patio_testing.tutorial_run import follow_and_compare, start

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(os.environ.get("PATIO_TEST_LONG") != "1", reason="a whole release: PATIO_TEST_LONG=1"),
]

NAMES = ("first", "second", "third")
WEIGHTS = dict(zip(NAMES, [*ADAPTERS.values(), ADAPTERS["lora-a"]], strict=True))
PODS = 2


class Helm:
    """helm, on the cluster of these tests."""

    def __init__(self, staged: Environment, released: Stage) -> None:
        self._binary, self._kubeconfig, self._environ = staged.helm, staged.kubeconfig, released.environ

    def __call__(self, *words: str) -> str:
        command = [str(self._binary), "--kubeconfig", str(self._kubeconfig), *words]
        done = subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"helm {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A release of what is committed here, in a registry that the node reaches on its loopback address."""
    if e2e_cluster.connect(report=log_progress).name != "local":
        pytest.skip("only the node of the local cluster shares this machine's loopback address")
    with stage(tmp_path_factory.mktemp("released"), log_progress) as prepared:
        prepared.release("released")
        yield prepared


@pytest.fixture(scope="module")
def helm(kube: Kube, staged: Environment, released: Stage) -> Iterator[Helm]:
    """helm, on a cluster from which Patio was removed as the documentation says; afterwards this tree's is back."""
    command = Helm(staged, released)
    for line in documented("docs/tasks/upgrade.md", "Uninstall"):
        words = shlex.split(line, comments=True)
        if words[0] == "helm":
            command(*words[1:])
        else:
            kube.kubectl(*words[1:])
    assert kube.get("/apis/patio.dev/v1alpha1") is None
    yield command
    environment.install_patio(kube, staged, log_progress)


def documented(page: str, title: str) -> list[str]:
    """Return the commands of a section that remove Patio and all of its objects."""
    lines = [line for step in steps(ROOT / page) if step.title == title for line in step.commands.splitlines()]
    return [line for line in lines if "NAME" not in line and "--output name" not in line]


@pytest.fixture(scope="module")
def installed(helm: Helm, released: Stage) -> Helm:
    """helm, after the README's command, as it is written but for the registry's name and its missing TLS."""
    (command,) = re.findall(r"^helm install .*$", (released.origin / "README.md").read_text(), re.MULTILINE)
    words = shlex.split(command.replace("ghcr.io/patio", released.registry))[1:]
    helm(*words, "--plain-http", "--wait", "--timeout", "5m")
    return helm


def operator_image(kube: Kube) -> str:
    found = kube.get(f"/apis/apps/v1/namespaces/{SYSTEM_NAMESPACE}/deployments/patio-operator")
    (container,) = found["spec"]["template"]["spec"]["containers"]
    image: str = container["image"]
    return image


def test_kubelet_pulls_the_released_images_by_digest(kube: Kube, installed: Helm, released: Stage) -> None:
    assert operator_image(kube).startswith(f"{released.registry}/operator@sha256:")
    pods = kube.pods(SYSTEM_NAMESPACE, "app.kubernetes.io/component=operator")
    (status,) = (status for pod in pods for status in pod["status"]["containerStatuses"])
    assert status["imageID"].startswith(f"{released.registry}/operator@sha256:")
    messages = [event["message"] for pod in pods for event in kube.events(SYSTEM_NAMESPACE, pod_name(pod))]
    assert any(f'Successfully pulled image "{operator_image(kube)}"' in message for message in messages), messages


def pod_name(pod: dict[str, dict[str, str]]) -> str:
    return pod["metadata"]["name"]


def test_helm_test_passes(installed: Helm) -> None:
    printed = installed("test", "patio", "--namespace", SYSTEM_NAMESPACE, "--timeout", "2m")
    assert "Phase:          Succeeded" in printed


def test_tutorial_ends_with_an_adapter_that_answers(
    kube: Kube, installed: Helm, released: Stage, make_namespace: Callable[[str], str]
) -> None:
    assert make_namespace(demo.NAMESPACE) == "demo"
    start(kube)
    (pod,) = kube.pods(demo.NAMESPACE)
    images = {container["name"]: container["image"] for container in pod["spec"]["initContainers"]}
    assert images["patio"].startswith(f"{released.registry}/sidecar@sha256:")
    follow_and_compare()


@pytest.fixture(scope="module")
def serving(kube: Kube, installed: Helm, make_namespace: Callable[[str], str]) -> str:
    """A namespace with three adapters on two engines, and clients for each of them."""
    namespace = make_namespace("upgraded")
    everyone = {"matchLabels": {"app": "qwen"}}
    kube.apply(
        deployment(double(), namespace, "qwen", PODS),
        *(lora_adapter(namespace, name, path, selector=everyone, service=True) for name, path in WEIGHTS.items()),
    )
    wait_for_pods(kube, namespace, PODS, within=90)
    for name in NAMES:
        wait_for_adapter(kube, namespace, name)
        start_clients(kube, namespace, f"clients-of-{name}")
    return namespace


@contextmanager
def adapters_in_use(kube: Kube, namespace: str) -> Iterator[None]:
    """Requests to all adapters for the length of a `with`; none is lost, and no engine is told to load or unload."""
    before = changes(kube, namespace)
    with ExitStack() as stack:
        answers = {
            name: stack.enter_context(
                load(
                    kube,
                    namespace,
                    f"http://{name}",
                    model=name,
                    tokens=(10, 40),
                    clients=2,
                    pod=f"clients-of-{name}",
                )
            )
            for name in NAMES
        }
        yield
    assert {name: answers[name].lost(f"http://{name}") for name in NAMES} == {name: [] for name in NAMES}
    assert all(answers[name].served(f"http://{name}") > 20 for name in NAMES)
    log_progress(f"requests answered: { ({name: answers[name].served(f'http://{name}') for name in NAMES}) }")
    assert changes(kube, namespace) == before


def changes(kube: Kube, namespace: str) -> dict[str, tuple[int, int]]:
    """How often each engine, by the UID of its pod, was told to load and to unload an adapter."""
    return {
        pod["metadata"]["uid"]: (
            requests(kube, namespace, pod_name(pod), "/v1/load_lora_adapter"),
            requests(kube, namespace, pod_name(pod), "/v1/unload_lora_adapter"),
        )
        for pod in kube.pods(namespace, "app=qwen")
    }


def requests(kube: Kube, namespace: str, pod: str, path: str) -> int:
    answer = kube.to_pod("GET", namespace, pod, 8000, f"/_double/requests?path={path}")
    return len(answer.raise_for_status().json())


def operator_works(kube: Kube, namespace: str, name: str) -> None:
    """A new adapter is loaded by the sidecars that are there, and unloaded when it is deleted."""
    kube.apply(lora_adapter(namespace, name, ADAPTERS["lora-b"], selector={"matchLabels": {"app": "qwen"}}))
    assert wait_for_adapter(kube, namespace, name, within=60)["status"]["readyReplicas"] == PODS
    kube.kubectl("-n", namespace, "delete", "loraadapter", name, "--timeout=60s")


def test_upgrade_under_load_unloads_and_loses_nothing(
    kube: Kube, staged: Environment, installed: Helm, serving: str
) -> None:
    with adapters_in_use(kube, serving):
        environment.install_patio(kube, staged, log_progress)
        until("the new operator leads", lambda: operator_image(kube).endswith(f":{environment.TAG}"), within=60)
        for name in NAMES:
            wait_for_adapter(kube, serving, name)
    operator_works(kube, serving, "after-the-upgrade")


def test_rollback_under_load_unloads_and_loses_nothing(
    kube: Kube, installed: Helm, released: Stage, serving: str
) -> None:
    with adapters_in_use(kube, serving):
        installed("rollback", "patio", "1", "--namespace", SYSTEM_NAMESPACE, "--wait", "--timeout", "5m")
        assert operator_image(kube).startswith(released.registry)
        for name in NAMES:
            wait_for_adapter(kube, serving, name)
    operator_works(kube, serving, "after-the-rollback")

"""A real API server with the chart installed, and the operator as a process with its own rights. No pod runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e_cluster.control_plane import ControlPlane, control_plane
from engine_double.samples import write_adapter
from patio_testing.chart import install_chart
from patio_testing.engine_pods import EnginePod, MakePod
from patio_testing.kube import Kube, connected, until
from patio_testing.operator_process import OPERATOR, OperatorProcess

from .converter import converting

CHART = Path(__file__).resolve().parents[2] / "charts" / "patio"


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """An API server of our own, with Patio's CRDs and the operator's rights, which converts between versions."""
    with control_plane() as running:
        install_chart(running)
        with converting(running):
            yield running


@pytest.fixture(scope="session")
def kube(plane: ControlPlane) -> Iterator[Kube]:
    """The API server, as its users see it."""
    with connected(plane.binaries.kubectl, plane.kubeconfig) as connection:
        yield connection


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest) -> str:
    """A namespace of this test's own."""
    name = f"t-{abs(hash(request.node.nodeid)) % 10**8}"
    kube.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def operator(plane: ControlPlane) -> Iterator[OperatorProcess]:
    """A running operator."""
    process = OperatorProcess(plane.kubeconfig_for(OPERATOR))
    process.start()
    yield process
    process.stop()
    print(process.logged())  # pytest shows it with a failure
    assert "forbidden" not in process.logged()


@pytest.fixture
def engine_pod(kube: Kube, namespace: str, tmp_path: Path) -> Iterator[MakePod]:
    """Makes pods with an engine and a sidecar."""
    pods: list[EnginePod] = []

    def make(name: str, node: str = "node-a") -> EnginePod:
        pod = EnginePod(kube, namespace, name, tmp_path, node)
        pods.append(pod)
        pod.start()
        return pod

    yield make
    for pod in pods:
        pod.stop()


@pytest.fixture
def adapter_path(tmp_path: Path) -> str:
    """The folder of an adapter that works."""
    return str(write_adapter(tmp_path / "adapter"))


@pytest.fixture(scope="module")
def webhooks(plane: ControlPlane, kube: Kube) -> Iterator[OperatorProcess]:
    """A running operator that the API server asks about pods, profiles and LoraAdapters."""
    process = OperatorProcess(plane.kubeconfig_for(OPERATOR))
    process.start()
    for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
        names = [
            webhook["name"] for webhook in json.loads(kube.kubectl("get", kind, "patio", "-o", "json"))["webhooks"]
        ]
        port = {"clientConfig": {"service": {"port": process.webhook_port}}}
        patch = {"webhooks": [{"name": name} | port for name in names]}
        kube.kubectl("patch", kind, "patio", "--type=strategic", "-p", json.dumps(patch))
    until("the API server asks the operator", lambda: _webhooks_answer(kube))
    yield process
    process.stop()
    print(process.logged())
    assert "forbidden" not in process.logged()


def _webhooks_answer(kube: Kube) -> bool:
    """Whether a profile and a pod that cannot be are refused: configurations reach the API server with a delay."""
    profile = {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "ClusterEngineRuntimeProfile",
        "metadata": {"name": "unheard-of"},
        "spec": {"updateStrategy": "NoUpdate", "containers": [{"name": "no-image"}]},
    }
    pod = {
        "metadata": {"name": "unheard-of", "labels": {"patio.dev/profile": "unheard-of"}},
        "spec": {"containers": [{"name": "engine", "image": "engine"}]},
    }
    answers = (
        kube.http.post("/apis/workloads.x-k8s.io/v1alpha2/clusterengineruntimeprofiles?dryRun=All", json=profile),
        kube.http.post("/api/v1/namespaces/default/pods?dryRun=All", json=pod),
    )
    return all("denied the request" in answer.text for answer in answers)


@pytest.fixture
def replicas(plane: ControlPlane) -> Iterator[list[OperatorProcess]]:
    """Two running replicas; the first to start leads."""
    with ExitStack() as stack:
        processes = [OperatorProcess(plane.kubeconfig_for(OPERATOR), f"patio-operator-{letter}") for letter in "ab"]
        for replica in processes:
            replica.start()
            stack.callback(replica.end)
            until("it leads, or the other does", lambda: any(each.leads() for each in processes if each.runs()))
        yield processes
        for replica in processes:
            print(f"--- {replica.name}\n{replica.logged()}")  # pytest shows it with a failure
            assert "forbidden" not in replica.logged()

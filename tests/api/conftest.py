"""A real API server with the chart installed, and the operator as a process with its own rights. No pod runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e_cluster import ensure_binaries
from e2e_cluster.control_plane import ControlPlane, control_plane

from converter import converting
from kube import Kube, connected
from operator_process import OPERATOR, OperatorProcess

CHART = Path(__file__).resolve().parents[2] / "charts" / "patio"


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """An API server of our own, with Patio's CRDs and the operator's rights, which converts between versions."""
    with control_plane() as running:
        subprocess.run(
            [
                ensure_binaries(["helm"]).helm,
                *("install", "patio", CHART, "--namespace", "patio-system", "--create-namespace"),
                *("--kubeconfig", running.kubeconfig),
            ],
            check=True,
        )
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

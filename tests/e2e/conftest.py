"""The cluster that the end-to-end tests share: brought up by the first test that needs it, taken down after the last.

A cluster that was up before is used and stays; PATIO_KEEP_CLUSTER=1 leaves one of ours, for a quicker next run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

import e2e_cluster
from patio_testing import environment, prometheus
from patio_testing.environment import log_progress
from patio_testing.kube import Kube, connected
from patio_testing.prometheus import Prometheus

from .alert_drill import Drill

MakeNamespace = Callable[[str], str]


def pytest_configure(config: pytest.Config) -> None:
    """Let `environment.log_progress` be heard: once pytest captures, file descriptor 2 is a file of its own."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        environment.progress_stream = os.fdopen(os.dup(2), "w")


@pytest.fixture(scope="session")
def staged() -> Iterator[environment.Environment]:
    """A cluster with the images of this tree."""
    provider = e2e_cluster.connect(report=log_progress)
    keep = provider.status().usable or os.environ.get("PATIO_KEEP_CLUSTER") == "1"
    try:
        yield environment.prepare_cluster(
            ("sidecar", "operator", "engine-double", "engine-base", "sample-parts"), log_progress
        )
    finally:
        if not keep:
            provider.down()


@pytest.fixture(scope="session")
def kube(staged: environment.Environment) -> Iterator[Kube]:
    """The cluster, with Patio installed."""
    with connected(staged.kubectl, staged.kubeconfig) as connection:
        environment.install_patio(connection, staged, log_progress)
        yield connection


@pytest.fixture(scope="session")
def monitored(kube: Kube, staged: environment.Environment) -> Iterator[Prometheus]:
    """A Prometheus by prometheus-operator, with the monitors and rules of the chart."""
    prometheus.install_operator(kube, log_progress)
    environment.install_patio(kube, staged, log_progress, *prometheus.MONITORS)
    yield prometheus.start_by_operator(kube)
    environment.install_patio(kube, staged, log_progress)
    kube.kubectl("delete", "namespace", prometheus.NAMESPACE, "--wait=true", "--timeout=120s")


@pytest.fixture(scope="session")
def drill(kube: Kube, monitored: Prometheus) -> Iterator[Drill]:
    """The same Prometheus, with alerts that fire soon."""
    made = Drill(kube, monitored)
    made.prepare()
    yield made
    made.end()


@pytest.fixture(scope="module")
def make_namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[MakeNamespace]:
    """Makes namespaces that are deleted after the module; only real engines are waited for, as the next has no room."""
    namespaces: list[str] = []

    def make(name: str) -> str:
        environment.fresh_namespace(kube, name)
        namespaces.append(name)
        return name

    yield make
    wait = str(request.node.get_closest_marker("vllm") is not None).lower()
    kube.kubectl("delete", "namespace", *namespaces, "--ignore-not-found", f"--wait={wait}", "--timeout=120s")


@pytest.fixture(scope="session")
def double() -> environment.Engine:
    """The engine double, in vLLM's form; slow enough to start for an outage to be seen."""
    return environment.double(startup_seconds="2")


@pytest.fixture(scope="session")
def slow_double() -> environment.Engine:
    """The engine double, taking its time to load an adapter."""
    return environment.double(lora_load_seconds="3")

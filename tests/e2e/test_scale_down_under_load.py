"""A managed role is scaled down while clients stream from its engines: real vLLMs, with the sidecar and without it.

Clients run in the cluster, with a connection for each request, through a Service and through a real smg. At most two
engines run at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from patio_testing import environment
from patio_testing.environment import GROUP_API, Engine, log_progress
from patio_testing.kube import Kube, is_ready, until
from patio_testing.load_client import load, start_clients
from patio_testing.sample_groups import PARTS

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("PATIO_TEST_LONG") != "1", reason="three vLLMs, two of them at a time: make test-long"
    ),
]

TOKENS = (60, 240)
SERVICE, ROUTER = "http://engines:8000", "http://drained-router-0.s-drained-router:8000"
TOPOLOGY = {
    "TOPO_TYPE": "sglang",
    "SGL_ROUTER_ROLE_NAME": "router",
    "SGL_ROUTER_PORT": "8000",
    "HEARTBEAT_INTERVAL": "3",
}


@pytest.fixture(scope="module")
def vllm() -> Engine:
    """The real vLLM."""
    return environment.vllm(log_progress)


def group(namespace: str, name: str, vllm: Engine, replicas: int, **sidecar: Any) -> dict[str, Any]:
    """A group of engines that the Service `engines` finds; with a router where they have a sidecar."""
    spec = vllm.pod_spec() | {"terminationGracePeriodSeconds": 300}
    template = {"metadata": {"labels": {"app": "engines"}}, "spec": spec}
    roles = [{"name": "worker", "replicas": replicas, "standalonePattern": {"template": template}, **sidecar}]
    if sidecar:
        router = {
            "name": "router",
            "image": PARTS,
            "command": ["python3", "-m", "smg.launch_router", "--host", "0.0.0.0", "--port", "8000"],
            "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        }
        roles.append(
            {"name": "router", "replicas": 1, "standalonePattern": {"template": {"spec": {"containers": [router]}}}}
        )
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": GROUP_API, "kind": "RoleBasedGroup", "metadata": metadata, "spec": {"roles": roles}}


def with_sidecar() -> dict[str, Any]:
    environment = [{"name": key, "value": value} for key, value in TOPOLOGY.items()]
    return {
        "engineRuntimes": [{"profileName": "patio", "containers": [{"name": "patio", "env": environment}]}],
    }


@pytest.fixture(scope="module")
def namespace(kube: Kube, make_namespace: Callable[[str], str]) -> str:
    """A namespace with the Service and a pod for the clients."""
    name = make_namespace("scale-down")
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "engines", "namespace": name},
            "spec": {"selector": {"app": "engines"}, "ports": [{"port": 8000}]},
        },
    )
    start_clients(kube, name)
    return name


def wait_ready(kube: Kube, namespace: str, *pods: str, within: float = 300.0) -> None:
    for pod in pods:
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        until(
            f"{pod} Ready",
            lambda path=path: kube.get(path),
            lambda pod_body: bool(pod_body) and is_ready(pod_body),
            within=within,
        )


def scale_down(kube: Kube, namespace: str, smaller: dict[str, Any], pod: str) -> None:
    """Scale a role down while the pod that has to go is in the middle of several streams; wait until it is gone."""

    def running() -> float:
        text = kube.to_pod("GET", namespace, pod, 8000, "/metrics").raise_for_status().text
        (line,) = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
        return float(line.split()[-1])

    until(
        f"{pod} is in the middle of several streams", running, lambda running_requests: running_requests >= 3, within=60
    )
    kube.apply(smaller)
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
    until(f"{pod} gone", lambda: kube.get(path) is None, within=300)


def test_requests_are_lost_only_without_the_sidecar(kube: Kube, namespace: str, vllm: Engine) -> None:
    kube.apply(group(namespace, "drained", vllm, 2, **with_sidecar()))
    wait_ready(kube, namespace, "drained-router-0", "drained-worker-0", "drained-worker-1")

    def workers() -> list[dict[str, Any]]:
        answer = kube.to_pod("GET", namespace, "drained-router-0", 8000, "/workers").raise_for_status()
        return [worker for worker in answer.json()["workers"] if worker["is_healthy"]]

    until("the router has both engines", workers, lambda seen: len(seen) == 2, within=60)
    with load(kube, namespace, SERVICE, ROUTER, tokens=TOKENS) as drained:
        scale_down(kube, namespace, group(namespace, "drained", vllm, 1, **with_sidecar()), pod="drained-worker-1")
    for url in (SERVICE, ROUTER):
        log_progress(f"scaled down with the sidecar, {url}: {drained.served(url)} served, lost: {drained.lost(url)}")

    # Beside what is left of the first group, so that there are two engines again.
    kube.apply(group(namespace, "cut", vllm, 1))
    wait_ready(kube, namespace, "cut-worker-0")
    with load(kube, namespace, SERVICE, tokens=TOKENS) as cut:
        scale_down(kube, namespace, group(namespace, "cut", vllm, 0), pod="cut-worker-0")
    log_progress(f"scaled down without it: {cut.served(SERVICE)} served, lost: {cut.lost(SERVICE)}")

    for url in (SERVICE, ROUTER):
        assert drained.served(url) > 4
        assert drained.lost(url) == []
    assert cut.lost(SERVICE), "nothing was lost without the drain either: then this shows nothing"

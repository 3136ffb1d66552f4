"""The profile and the RoleBasedGroup of upstream Patio's README, with our images and the engine double in theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from patio_testing import sample_groups
from patio_testing.environment import TAG, wait_for_pods
from patio_testing.kube import Kube, is_ready, until

pytestmark = pytest.mark.cluster

PROFILE = """
apiVersion: workloads.x-k8s.io/v1alpha2
kind: ClusterEngineRuntimeProfile
metadata:
  name: patio-runtime
spec:
  containers:
    - name: patio
      image: rolebasedgroup/rbgs-patio-runtime:latest
      ports:
        - containerPort: 9091
          name: patio
      env:
        - name: INFERENCE_ENGINE
          value: "sglang"
        - name: INFERENCE_ENGINE_ENDPOINT
          value: "http://localhost:8000"
        - name: TOPO_TYPE
          value: "SGLang"
      resources:
        requests:
          cpu: "100m"
          memory: "128Mi"
"""
GROUP = """
apiVersion: workloads.x-k8s.io/v1alpha2
kind: RoleBasedGroup
metadata:
  name: my-inference
spec:
  roles:
    - name: inference
      replicas: 2
      engineRuntimes:
        - profileName: patio-runtime
      standalonePattern:
        template:
          spec:
            containers:
              - name: sglang
                image: lmsysorg/sglang:latest
                ports:
                  - containerPort: 8000
"""
TOPOLOGY = """
- name: SGL_ROUTER_ROLE_NAME
  value: "router"
- name: SGL_ROUTER_PORT
  value: "8000"
"""
ROUTER = """
name: router
replicas: 1
standalonePattern:
  template:
    spec:
      containers:
        - name: router
          image: lmsysorg/sglang-router:latest
          command: [python3, -m, sglang_router.launch_router, --host, 0.0.0.0, --port, "8000"]
          readinessProbe:
            httpGet: {path: /health, port: 8000}
"""
POD = ("my-inference-inference-0", "my-inference-inference-1")


@pytest.fixture(scope="module")
def profile(kube: Kube) -> Any:
    kube.apply(sample_groups.runnable(yaml.safe_load(PROFILE)))
    yield "patio-runtime"
    kube.kubectl("delete", "clusterengineruntimeprofile", "patio-runtime")


def group(namespace: str) -> dict[str, Any]:
    """The README's group. The image has no command there; the double is told what it stands for."""
    body: dict[str, Any] = yaml.safe_load(GROUP)
    body["metadata"]["namespace"] = namespace
    (engine,) = body["spec"]["roles"][0]["standalonePattern"]["template"]["spec"]["containers"]
    engine["image"] = f"ghcr.io/patio/engine-double:{TAG}"
    engine["args"] = ["--engine", "sglang", "--enable-metrics", "--served-model-name", "qwen"]
    return body


def test_manifests_of_readme_give_pods_with_sidecar_and_metrics(
    kube: Kube, profile: str, make_namespace: Callable[[str], str]
) -> None:
    namespace = make_namespace("readme")
    kube.apply(group(namespace))
    pods = wait_for_pods(kube, namespace, 2, within=60)
    assert [[container["name"] for container in pod["spec"]["containers"]] for pod in pods] == [["sglang", "patio"]] * 2
    for pod in POD:
        text = until(  # its sidecar has no probe: the pod is Ready before it
            f"metrics of {pod}",
            lambda pod=pod: kube.to_pod("GET", namespace, pod, 9091, "/metrics").raise_for_status().text,
            lambda seen: "\npatio:num_requests_running{" in seen,
            within=20,
        )
        assert "\npatio:input_tokens_total{" in text
        assert kube.to_pod("GET", namespace, pod, 9091, "/health").status_code == 200
        topology = kube.to_pod("GET", namespace, pod, 9091, "/v1/topology").json()
        assert (topology["registered"], topology["reason"]) == (False, "NotConfigured")
    assert {pod["status"]["containerStatuses"][1]["restartCount"] for pod in kube.pods(namespace)} == {0}


def test_workers_register_and_return_when_the_router_restarts(
    kube: Kube, profile: str, make_namespace: Callable[[str], str]
) -> None:
    namespace = make_namespace("readme-router")
    with_router = group(namespace)
    role = with_router["spec"]["roles"][0]
    environment = [*yaml.safe_load(TOPOLOGY), {"name": "HEARTBEAT_INTERVAL", "value": "3"}]
    role["engineRuntimes"][0]["containers"] = [{"name": "patio", "env": environment}]
    with_router["spec"]["roles"].append(sample_groups.runnable(yaml.safe_load(ROUTER)))
    kube.apply(with_router)
    pods = wait_for_pods(kube, namespace, 3, within=60)
    engines = {f"http://{pod['status']['podIP']}:8000" for pod in pods if pod["metadata"]["name"] in POD}
    body = {"model": "qwen", "prompt": "once upon a time", "max_tokens": 3}

    def served() -> bool:
        router = "my-inference-router-0"
        workers = kube.to_pod("GET", namespace, router, 8000, "/workers").raise_for_status().json()["workers"]
        healthy = {worker["url"] for worker in workers if worker["is_healthy"]}
        return healthy == engines and kube.to_pod("POST", namespace, router, 8000, "/v1/completions", body).is_success

    until("the router serves through both workers", served, within=60)
    kube.kubectl("-n", namespace, "delete", "pod", "my-inference-router-0", "--force", "--grace-period=0")
    path = f"/api/v1/namespaces/{namespace}/pods/my-inference-router-0"
    until("the router is back", lambda: kube.get(path), lambda pod: bool(pod) and is_ready(pod))
    until("the heartbeat has registered both again", served, within=60)

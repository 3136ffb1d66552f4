"""The end of a pod on a real cluster: kubelet calls the hook that injection put in, and no running request is cut."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from patio_testing import environment
from patio_testing.environment import PROMPT
from patio_testing.kube import Kube, is_ready, until

pytestmark = pytest.mark.cluster

TOKENS = 40
TOKENS_PER_SECOND = 8


@pytest.fixture(scope="module")
def namespace(make_namespace: Callable[[str], str]) -> str:
    return make_namespace("drain")


def last_request_of_a_pod_that_is_deleted(kube: Kube, namespace: str, name: str, labels: dict[str, str]) -> Any:
    """Delete a pod in the middle of a request of some seconds; return the request's one choice."""
    spec = environment.double(tokens_per_second=str(TOKENS_PER_SECOND)).pod_spec() | {
        "terminationGracePeriodSeconds": 30
    }
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    until(f"{name} Ready", lambda: kube.get(path), lambda pod: bool(pod) and is_ready(pod))
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}

    def metrics() -> str:
        return kube.to_pod("GET", namespace, name, 8000, "/metrics").text

    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(kube.to_pod, "POST", namespace, name, 8000, "/v1/completions", body)
        until("the request runs", lambda: 'vllm:num_requests_running{engine="0",model_name="tiny"} 1.0' in metrics())
        kube.kubectl("-n", namespace, "delete", "pod", name, "--wait=false")
        answer = request.result()
    assert answer.status_code == 200, answer.text
    until(f"{name} gone", lambda: kube.get(path) is None, within=40)
    (choice,) = answer.json()["choices"]
    return choice


def test_running_request_finishes_when_its_pod_is_deleted(kube: Kube, namespace: str) -> None:
    choice = last_request_of_a_pod_that_is_deleted(kube, namespace, "drained", {"patio.dev/profile": "patio"})
    assert choice["finish_reason"] == "length"


def test_without_the_sidecar_it_is_cut(kube: Kube, namespace: str) -> None:
    choice = last_request_of_a_pod_that_is_deleted(kube, namespace, "cut", {})
    assert choice["finish_reason"] == "abort"

"""Two hundred pods created at once: every one is injected, and the time that the webhook took is printed (pytest -rP).

It is not judged. The goal is 50 ms for 99 of 100, of the webhook's own time; a machine that runs an API server, etcd
and the operator beside this test is no place to hold it to that.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.injection import revision
from patio_testing.kube import Kube
from patio_testing.operator_process import OperatorProcess

pytestmark = pytest.mark.api

Object = dict[str, Any]

PODS = 200
ADAPTERS = 20
PATIENCE = 180.0
"""Seconds that a creation may take on a busy machine."""
SECONDS = "patio_operator_admission_duration_seconds", 'webhook="pods"'
SEEN_SECONDS = "apiserver_admission_webhook_admission_duration_seconds", ""
"""Names of histograms, and a label that their series have."""


def test_two_hundred_pods_at_once_are_all_injected(kube: Kube, namespace: str, webhooks: OperatorProcess) -> None:
    kube.apply(*(adapter(namespace, f"adapter-{index}") for index in range(ADAPTERS)))
    own, seen = buckets(webhooks.metrics(), *SECONDS), buckets(api_server_metrics(kube), *SEEN_SECONDS)
    answers = asyncio.run(create_at_once(kube, namespace))
    assert {answer["metadata"]["labels"].get("patio.dev/injected") for answer in answers} == {"true"}
    own_now, seen_now = buckets(webhooks.metrics(), *SECONDS), buckets(api_server_metrics(kube), *SEEN_SECONDS)
    print(f"{PODS} pods at once, {ADAPTERS} LoraAdapters: the webhook's own time {quantiles(own, own_now)}")
    print(f"as the API server sees it, with connections and waiting for a processor: {quantiles(seen, seen_now)}")


def test_pod_gets_the_profile_created_or_changed_just_before_it(
    kube: Kube, namespace: str, webhooks: OperatorProcess
) -> None:
    assert webhooks
    for number in range(10):
        name = f"fresh-{namespace}-{number}"
        first = profile(kube, name, "side:1")
        assert injected(create(kube, namespace, f"first-{number}", name)) == {name: revision(first)}
        changed = profile(kube, name, "side:2", first.metadata.resource_version)
        mark = {"patio.dev/rolled-profiles": json.dumps({name: revision(changed)})}
        assert injected(create(kube, namespace, f"second-{number}", name, mark)) == {name: revision(changed)}


def profile(kube: Kube, name: str, image: str, version: str = "") -> ClusterEngineRuntimeProfile:
    body = {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "ClusterEngineRuntimeProfile",
        "metadata": {"name": name, "resourceVersion": version},
        "spec": {"updateStrategy": "NoUpdate", "containers": [{"name": "side", "image": image}]},
    }
    path = "/apis/workloads.x-k8s.io/v1alpha2/clusterengineruntimeprofiles"
    answer = kube.http.request("PUT" if version else "POST", path + (f"/{name}" if version else ""), json=body)
    if answer.status_code == 409:  # its status was written meanwhile
        return profile(kube, name, image, kube.get(f"{path}/{name}")["metadata"]["resourceVersion"])
    assert answer.status_code in (200, 201), answer.text
    return ClusterEngineRuntimeProfile.model_validate(answer.json())


def injected(created: Object) -> Object:
    revisions: Object = json.loads(created["metadata"]["annotations"]["patio.dev/injected"])
    return revisions


def adapter(namespace: str, name: str) -> Object:
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": {"uri": f"file:///adapters/{name}"}, "selector": {"matchLabels": {"app": "at-once"}}},
    }


def pod(name: str, profile_name: str = "patio", annotations: Object | None = None) -> Object:
    labels = {"patio.dev/profile": profile_name, "app": "at-once"}
    return {
        "metadata": {"name": name, "labels": labels, "annotations": annotations or {}},
        "spec": {"containers": [{"name": "engine", "image": "e", "command": ["vllm", "serve", "m", "--enable-lora"]}]},
    }


def create(
    kube: Kube, namespace: str, name: str, profile_name: str = "patio", annotations: Object | None = None
) -> Object:
    return created_body(
        kube.http.post(f"/api/v1/namespaces/{namespace}/pods", json=pod(name, profile_name, annotations))
    )


async def create_at_once(kube: Kube, namespace: str) -> list[Object]:
    """Create all pods with one request each, all sent before the first answer."""
    limits = httpx.Limits(max_connections=PODS)
    async with httpx.AsyncClient(base_url=kube.http.base_url, limits=limits, timeout=PATIENCE) as http:
        path = f"/api/v1/namespaces/{namespace}/pods"
        answers = await asyncio.gather(*(http.post(path, json=pod(f"pod-{index}")) for index in range(PODS)))
    return [created_body(answer) for answer in answers]


def created_body(answer: httpx.Response) -> Object:
    assert answer.status_code == 201, answer.text
    created: Object = answer.json()
    return created


def api_server_metrics(kube: Kube) -> str:
    return "\n".join(line for line in kube.http.get("/metrics").text.splitlines() if 'name="profile.patio.dev"' in line)


def buckets(metrics: str, name: str, label: str) -> Mapping[float, int]:
    """A histogram: how many took at most so many seconds."""
    lines = [line for line in metrics.splitlines() if line.startswith(f"{name}_bucket") and label in line]
    counts: Counter[float] = Counter()
    for line in lines:
        counts[float(line.split('le="')[1].split('"')[0])] += int(float(line.split()[-1]))
    return counts


def quantiles(before: Mapping[float, int], after: Mapping[float, int]) -> str:
    spent = {bound: count - before.get(bound, 0) for bound, count in after.items()}
    return f"p50 {quantile(spent, 0.5) * 1000:.1f} ms, p99 {quantile(spent, 0.99) * 1000:.1f} ms"


def quantile(of: Mapping[float, int], part: float) -> float:
    """What Prometheus would say: within a bucket, times are thought to be spread evenly."""
    rank, low, under = part * max(of.values()), 0.0, 0.0
    for bound, count in sorted(of.items()):
        if count >= rank:
            return low + (bound - low) * (rank - under) / (count - under)
        low, under = bound, count
    return low

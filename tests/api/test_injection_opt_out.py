"""A pod's owner can leave injection out, by the real API server through the chart's own configuration."""

from __future__ import annotations

import pytest

from patio_testing.kube import Kube
from patio_testing.operator_process import OperatorProcess

pytestmark = pytest.mark.api

PROFILE = {"patio.dev/profile": "patio"}
RUNTIMES = {"patio.dev/engine-runtimes": "true"}
OF_UPSTREAM = {"rbg.workloads.x-k8s.io/group-name": "g", "rbg.workloads.x-k8s.io/role-name": "r"}


def containers(kube: Kube, labels: dict[str, str], namespace: str = "default") -> list[str]:
    """Return the names of a pod's containers after admission, by a dry run."""
    body = {
        "metadata": {"name": "engine", "labels": labels},
        "spec": {"containers": [{"name": "engine", "image": "engine"}]},
    }
    answer = kube.http.post(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", json=body)
    assert answer.status_code == 201, answer.text
    spec = answer.json()["spec"]
    return [container["name"] for container in [*spec.get("initContainers", []), *spec["containers"]]]


def test_pod_that_asks_for_a_profile_gets_it(webhooks: OperatorProcess, kube: Kube) -> None:
    assert containers(kube, PROFILE) == ["patio", "engine"]
    assert containers(kube, PROFILE | {"patio.dev/inject": "true"}) == ["patio", "engine"]


@pytest.mark.parametrize("labels", [PROFILE, PROFILE | RUNTIMES, RUNTIMES | OF_UPSTREAM, OF_UPSTREAM])
def test_pod_with_the_label_is_never_injected(webhooks: OperatorProcess, kube: Kube, labels: dict[str, str]) -> None:
    assert containers(kube, labels | {"patio.dev/inject": "false"}) == ["engine"]

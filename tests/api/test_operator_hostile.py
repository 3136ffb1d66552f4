"""What a user of one namespace writes, against a real API server: the operator goes on for everybody else."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from patio_testing.kube import Kube, condition, until
from patio_testing.operator_process import OperatorProcess

pytestmark = pytest.mark.api

GROUPS = "apis/workloads.x-k8s.io/v1alpha2"
NESTED = "[" * 2000
DEEP = "[" * 3000 + "]" * 3000


def rbg(namespace: str, name: str, **role: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "engine", "image": "engine"}]}
    spec = {"name": "w", "replicas": 1, "standalonePattern": {"template": {"spec": pod}}} | role
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "RoleBasedGroup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"roles": [spec]},
    }


def post(kube: Kube, namespace: str, text: str) -> httpx.Response:
    path = f"/{GROUPS}/namespaces/{namespace}/rolebasedgroups"
    return kube.http.post(path, content=text, headers={"Content-Type": "application/json"})


def realised(kube: Kube, namespace: str, name: str) -> None:
    kube.apply(rbg(namespace, name))
    until(f"{name} is realised", lambda: kube.get(f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}-w"))


def test_nested_annotations_stop_no_other_object(kube: Kube, namespace: str, operator: OperatorProcess) -> None:
    keys = ("patio.dev/injected", "patio.dev/engine", "lora.patio.dev/names", "patio.dev/rolled-profiles")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "nested",
            "namespace": namespace,
            "labels": {"patio.dev/injected": "true", "lora.patio.dev/x": "loaded"},
            "annotations": dict.fromkeys(keys, NESTED),
        },
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    kube.apply(pod)
    nested = rbg(namespace, "nested")
    nested["metadata"]["annotations"] = dict.fromkeys(
        ("patio.dev/rolled-roles", "conversion.patio.dev/only-in-v1alpha1"), NESTED
    )
    kube.apply(nested)
    realised(kube, namespace, "after")
    realised(kube, namespace, "nested")
    old = json.loads(kube.kubectl("-n", namespace, "get", "rolebasedgroups.v1alpha1.workloads.x-k8s.io", "-o", "json"))
    assert {item["metadata"]["name"] for item in old["items"]} == {"after", "nested"}
    assert operator.runs()


def test_group_nested_deeply_stops_no_other(kube: Kube, namespace: str, operator: OperatorProcess) -> None:
    text = json.dumps(rbg(namespace, "deep")).replace('"image": "engine"', f'"image": "engine", "odd": {DEEP}')
    answer = post(kube, namespace, text)
    assert answer.status_code == 201, answer.text[:500]
    realised(kube, namespace, "after")
    lists = f"/apis/workloads.x-k8s.io/v1alpha1/namespaces/{namespace}/rolebasedgroups"
    listed = kube.http.get(lists)
    assert listed.status_code == 200, listed.text[:500]
    assert DEEP in listed.text
    assert operator.runs()


def test_group_of_absurd_size_stops_no_other(kube: Kube, namespace: str, operator: OperatorProcess) -> None:
    kube.apply(rbg(namespace, "many", replicas=2_147_483_647))
    path = f"/{GROUPS}/namespaces/{namespace}/rolebasedgroups/many"
    ready = until("refused", lambda: condition(kube.get(path), "Ready"))
    assert (ready["status"], ready["reason"]) == ("False", "Unsupported")
    realised(kube, namespace, "after")
    assert operator.runs()


def test_signs_of_upstream_in_a_users_namespace_are_none(kube: Kube, namespace: str, operator: OperatorProcess) -> None:
    labels = {"control-plane": "rbgs-controller"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "nosy", "namespace": namespace, "labels": labels},
            "spec": template["spec"],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "rbgs-controller-manager", "namespace": namespace},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "rbg-controller", "namespace": namespace},
            "spec": {"holderIdentity": "nosy", "renewTime": "2036-01-01T00:00:00.000000Z"},
        },
    )
    operator.stop()
    operator.start()  # it looks first of all
    realised(kube, namespace, "after")
    assert "Upstream's controller realises" not in operator.logged()

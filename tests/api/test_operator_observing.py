"""Observe mode against a real API server, with what upstream's controller really made on a live cluster."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from e2e_cluster.control_plane import ControlPlane
from patio_testing.kube import Kube, until
from patio_testing.operator_process import OPERATOR, OperatorProcess
from patio_testing.webhook_service import webhook_service

pytestmark = pytest.mark.api

Object = dict[str, Any]

RECORDED = Path(__file__).resolve().parents[2] / "operator" / "tests" / "recorded" / "rbg_objects.yaml"
NAMESPACES = ("rec-patio", "rec-engine-runtime-profile")
UPSTREAM = {"namespace": "rbgs-system", "name": "rbgs-controller-manager"}
PATHS = {
    "RoleBasedGroup": "/apis/workloads.x-k8s.io/v1alpha2/namespaces/{}/rolebasedgroups",
    "RoleInstanceSet": "/apis/workloads.x-k8s.io/v1alpha2/namespaces/{}/roleinstancesets",
    "RoleInstance": "/apis/workloads.x-k8s.io/v1alpha2/namespaces/{}/roleinstances",
    "Service": "/api/v1/namespaces/{}/services",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
}


@pytest.fixture
def operator(plane: ControlPlane, kube: Kube) -> Iterator[OperatorProcess]:
    """A running operator that decides by itself, behind the webhook's Service."""
    process = OperatorProcess(plane.kubeconfig_for(OPERATOR))
    process.start()
    with webhook_service(kube, lambda: [process.webhook_port]):
        yield process
    process.end()
    print(process.logged())  # pytest shows it with a failure
    assert "forbidden" not in process.logged()


@pytest.fixture
def upstream(kube: Kube) -> Iterator[None]:
    """The Deployment of upstream's controller, its kinds, and the namespaces of the recordings."""
    for name in (UPSTREAM["namespace"], *NAMESPACES):
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    kube.apply(crd("RoleInstanceSet"), crd("RoleInstance"))
    kube.apply(deployment())
    yield
    kube.kubectl("-n", UPSTREAM["namespace"], "delete", "deployment", UPSTREAM["name"], "--ignore-not-found")


def crd(kind: str) -> Object:
    plural = f"{kind.lower()}s"
    any_object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha2", "served": True, "storage": True, "schema": {"openAPIV3Schema": any_object}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.workloads.x-k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "workloads.x-k8s.io",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [version],
        },
    }


def deployment() -> Object:
    labels = {"control-plane": "rbgs-controller"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": UPSTREAM,
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "manager", "image": "rbg"}]}},
        },
    }


def recorded(*kinds: str) -> list[Object]:
    return [document for document in yaml.safe_load_all(RECORDED.read_text()) if document["kind"] in kinds]


def creatable(recorded_body: Object) -> Object:
    """As upstream's controller sends it, as far as the API server is to fill the rest in."""
    body = copy.deepcopy(recorded_body)
    body["metadata"].pop("uid", None)
    body.pop("status", None)
    for key in ("clusterIP", "clusterIPs"):
        if body["kind"] == "Service" and body["spec"].get(key) not in ("None", ["None"], None):
            del body["spec"][key]
    return body


def observes(operator: OperatorProcess) -> bool:
    return "patio_operator_observing_groups 1.0" in operator.metrics()


def posted(kube: Kube, pod: Object) -> httpx.Response:
    response = kube.http.post(f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods", json=creatable(pod))
    assert response.status_code == 201, response.text
    return response


def upstreams_objects(kube: Kube) -> dict[tuple[str, str, str], str]:
    """Everything of upstream's but its pods, with what tells whether it was written to."""
    return {
        (kind, namespace, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for kind, path in PATHS.items()
        for namespace in NAMESPACES
        for item in kube.get(path.format(namespace))["items"]
    }


def variables(pod: Object, name: str) -> dict[str, Any]:
    (found,) = [
        container
        for key in ("containers", "initContainers")
        for container in pod["spec"].get(key) or []
        if container["name"] == name
    ]
    return {variable["name"]: variable.get("value") for variable in found.get("env") or []}


@pytest.mark.usefixtures("upstream")
def test_pods_of_upstream_are_completed_and_nothing_else_written(kube: Kube, operator: OperatorProcess) -> None:
    until("it is noticed", lambda: observes(operator), within=15)
    profile, _ = recorded("ClusterEngineRuntimeProfile")
    kube.apply(profile)  # the second group's profile is missing
    for document in recorded("RoleBasedGroup", "RoleInstanceSet", "RoleInstance", "Service", "ConfigMap"):
        kube.apply(creatable(document))
    before = upstreams_objects(kube)

    answers = {document["metadata"]["name"]: posted(kube, document) for document in recorded("Pod")}
    pods = {name: answer.json() for name, answer in answers.items()}
    for index in range(3):
        pod = pods[f"my-inference-inference-{index}"]
        assert pod["metadata"]["labels"]["patio.dev/injected"] == "true"
        for sidecar in ("patio", "native"):
            env = variables(pod, sidecar)
            assert (env["GROUP_NAME"], env["RBG_GROUP_NAME"]) == ("my-inference", "my-inference")
            assert env["ROLE_INDEX"] == env["RBG_ROLE_INDEX"] == str(index)
    for name in ("my-inference-router-0", "my-inference-multi-0-1", "gpu-inference-decode-0"):
        assert "patio.dev/injected" not in pods[name]["metadata"]["labels"]
    assert "does not exist" in answers["gpu-inference-decode-0"].headers["Warning"]

    adapter = {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {"name": "sql", "namespace": "rec-patio"},
        "spec": {"source": {"uri": "file:///a"}, "roleRef": {"group": "my-inference", "role": "inference"}},
    }
    kube.apply(adapter)
    placed = until(
        "the operator has worked, and knows the role's pods",
        lambda: kube.lora_adapter("rec-patio", "sql") or {},
        lambda adapter: (adapter.get("status") or {}).get("desiredReplicas") == 3,
    )
    assert {instance["pod"] for instance in placed["status"]["instances"]} == {
        f"my-inference-inference-{index}" for index in range(3)
    }
    assert upstreams_objects(kube) == before
    assert not kube.events("rec-patio", "my-inference")


@pytest.mark.usefixtures("upstream")
def test_upstream_coming_and_going_changes_who_realises_groups(
    kube: Kube, namespace: str, operator: OperatorProcess
) -> None:
    until("it is noticed", lambda: observes(operator), within=15)
    group = {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "RoleBasedGroup",
        "metadata": {"name": "waits", "namespace": namespace},
        "spec": {
            "roles": [
                {
                    "name": "worker",
                    "replicas": 1,
                    "standalonePattern": {"template": {"spec": {"containers": [{"name": "e", "image": "e"}]}}},
                }
            ]
        },
    }
    kube.apply(group)
    kube.kubectl("-n", UPSTREAM["namespace"], "delete", "deployment", UPSTREAM["name"])
    for namespace_of in NAMESPACES:
        kube.kubectl("-n", namespace_of, "delete", "rolebasedgroups", "--all")
    until("its absence is believed", lambda: not observes(operator), within=60)
    until(
        "the group that waited is realised",
        lambda: kube.get(f"/apis/apps/v1/namespaces/{namespace}/statefulsets/waits-worker"),
    )
    kube.apply(deployment())
    until("upstream is noticed again", lambda: observes(operator), within=15)
    before = kube.get(PATHS["RoleBasedGroup"].format(namespace))["items"][0]["status"]
    kube.kubectl("-n", namespace, "annotate", "rbg", "waits", "patio.dev/hand-over=true")
    until(
        "what Patio made makes room",
        lambda: kube.kubectl("-n", namespace, "get", "statefulsets,services,configmaps", "-o", "name"),
        lambda seen: seen == "",
    )
    assert kube.get(PATHS["RoleBasedGroup"].format(namespace))["items"][0]["status"] == before
    until(
        "both are told in events on the Lease",
        lambda: {event["reason"] for event in kube.events("patio-system", "patio-operator")},
        lambda seen: {"Managing", "Observing"} <= seen,
    )
    messages = [
        json.loads(line)["message"] for line in operator.logged().splitlines() if "realises RoleBasedGroups" in line
    ]
    assert ["Upstream's" in message for message in messages[-3:]] == [True, False, True], messages

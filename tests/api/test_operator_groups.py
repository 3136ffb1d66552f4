"""RoleBasedGroups against a real API server: what the operator makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kube import Kube, condition, until

pytestmark = pytest.mark.api


def rbg(namespace: str, *roles: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "RoleBasedGroup",
        "metadata": {"name": "demo", "namespace": namespace},
        "spec": {"roles": list(roles)},
    }


def role(name: str, **more: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "engine", "image": "engine"}]}
    return {"name": name, "replicas": 1, "standalonePattern": {"template": {"spec": pod}}} | more


def stateful_set(kube: Kube, namespace: str, name: str) -> Any:
    return kube.get(f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}")


def group(kube: Kube, namespace: str) -> Any:
    return kube.get(f"/apis/workloads.x-k8s.io/v1alpha2/namespaces/{namespace}/rolebasedgroups/demo")


@pytest.mark.usefixtures("operator")
def test_a_role_becomes_a_statefulset_and_a_headless_service(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, role("worker", replicas=2)))
    made = until("the StatefulSet", lambda: stateful_set(kube, namespace, "demo-worker"))
    assert made["spec"]["replicas"] == 2
    service = kube.get(f"/api/v1/namespaces/{namespace}/services/s-demo-worker")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("RoleBasedGroup", "demo", True)


@pytest.mark.usefixtures("operator")
def test_the_status_follows_the_statefulsets(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, role("worker")))
    made = until("the StatefulSet", lambda: stateful_set(kube, namespace, "demo-worker"))
    until("not Ready", lambda: condition(group(kube, namespace), "Ready"), lambda one: one.get("status") == "False")
    status = {
        "observedGeneration": made["metadata"]["generation"],
        "replicas": 1,
        "readyReplicas": 1,
        "updatedReplicas": 1,
        "availableReplicas": 1,
    }
    patch = json.dumps({"status": status})
    kube.kubectl("-n", namespace, "patch", "sts", "demo-worker", "--subresource=status", "--type=merge", "-p", patch)
    until("Ready", lambda: condition(group(kube, namespace), "Ready"), lambda one: one.get("status") == "True")


@pytest.mark.usefixtures("operator")
def test_a_changed_and_a_removed_role_are_followed(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, role("one"), role("two")))
    until("both", lambda: all(stateful_set(kube, namespace, f"demo-{one}") for one in ("one", "two")))
    kube.apply(rbg(namespace, role("one", replicas=3)))
    until("scaled", lambda: stateful_set(kube, namespace, "demo-one")["spec"]["replicas"] == 3)
    until("removed", lambda: stateful_set(kube, namespace, "demo-two") is None)


@pytest.mark.usefixtures("operator")
def test_what_cannot_be_realised_is_refused_by_name_and_nothing_is_made(kube: Kube, namespace: str) -> None:
    pattern = {"leaderWorkerPattern": role("x")["standalonePattern"] | {"size": 2}}
    leader_worker = {"name": "multi", "replicas": 1} | pattern
    kube.apply(rbg(namespace, role("worker"), leader_worker))
    ready = until("the verdict", lambda: condition(group(kube, namespace), "Ready"))
    assert (ready["status"], ready["reason"]) == ("False", "Unsupported")
    assert "multi" in ready["message"]
    assert stateful_set(kube, namespace, "demo-worker") is None


@pytest.mark.usefixtures("operator")
def test_a_role_waits_for_its_profile_and_goes_on_when_it_appears(kube: Kube, namespace: str) -> None:
    profile = f"late-{namespace}"
    kube.apply(rbg(namespace, role("worker", engineRuntimes=[{"profileName": profile}])))
    ready = until(
        "the verdict",
        lambda: condition(group(kube, namespace), "Ready"),
        lambda one: one.get("reason") == "ProfileNotFound",
    )
    assert profile in ready["message"]
    kube.apply(
        {
            "apiVersion": "workloads.x-k8s.io/v1alpha2",
            "kind": "ClusterEngineRuntimeProfile",
            "metadata": {"name": profile},
            "spec": {"updateStrategy": "NoUpdate", "containers": [{"name": "side", "image": "side"}]},
        }
    )
    made = until("the StatefulSet", lambda: stateful_set(kube, namespace, "demo-worker"))
    assert [one["name"] for one in made["spec"]["template"]["spec"]["containers"]] == ["engine"]


@pytest.mark.usefixtures("operator")
def test_what_belongs_to_somebody_else_is_never_overwritten(kube: Kube, namespace: str) -> None:
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "demo", "namespace": namespace}}
    kube.apply(theirs | {"data": {"mine": "yes"}})
    kube.apply(rbg(namespace, role("worker")))
    ready = until("the verdict", lambda: condition(group(kube, namespace), "Ready"))
    assert (ready["status"], ready["reason"]) == ("False", "NameTaken")
    assert "ConfigMap 'demo'" in ready["message"]
    assert kube.get(f"/api/v1/namespaces/{namespace}/configmaps/demo")["data"] == {"mine": "yes"}
    assert stateful_set(kube, namespace, "demo-worker") is None

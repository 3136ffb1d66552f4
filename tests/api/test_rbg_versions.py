"""Both API versions of RoleBasedGroup on a real API server: written as one, read as the other, nothing lost."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml

from e2e_cluster.control_plane import ControlPlane
from patio_testing.kube import Kube, condition, until
from patio_testing.operator_process import OperatorProcess
from patio_testing.upstream_samples import SAMPLES

pytestmark = pytest.mark.api

OLD, NEW = "rolebasedgroups.v1alpha1.workloads.x-k8s.io", "rolebasedgroups.v1alpha2.workloads.x-k8s.io"
CRD = "rolebasedgroups.workloads.x-k8s.io"
POD = {"spec": {"containers": [{"name": "engine", "image": "engine", "unknown": {"to": "us"}}]}}


def read(plane: ControlPlane, namespace: str, resource: str, name: str) -> Any:
    return json.loads(plane.kubectl("-n", namespace, "get", resource, name, "-o", "json"))


def old_groups() -> list[Any]:
    return [
        pytest.param(document, id=f"{path.stem}:{document['metadata']['name']}")
        for path in sorted((SAMPLES / "deprecated").rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document and document["kind"] == "RoleBasedGroup"
    ]


@pytest.mark.parametrize("document", old_groups())
def test_old_manifest_reads_as_written_and_needs_no_second_write(
    plane: ControlPlane, namespace: str, document: dict[str, Any]
) -> None:
    document["metadata"]["namespace"] = namespace
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    name = document["metadata"]["name"]
    back = read(plane, namespace, OLD, name)
    assert_within(document["spec"], back["spec"])
    assert not [key for key in back["metadata"].get("annotations", {}) if key.startswith("conversion.")]
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    assert read(plane, namespace, OLD, name) == back
    plane.kubectl("replace", "-f", "-", stdin=json.dumps(read(plane, namespace, NEW, name)))
    again = read(plane, namespace, OLD, name)
    assert (again["spec"], again["metadata"]["generation"]) == (back["spec"], back["metadata"]["generation"])


def test_edit_of_old_version_keeps_what_only_the_new_one_has(plane: ControlPlane, namespace: str) -> None:
    pattern = {
        "size": 2,
        "template": POD,
        "sharedServiceSelection": "All",
        "restartPolicyConfig": {"type": "None", "baseDelaySeconds": 7},
    }
    role = {"name": "multi", "podManagementPolicy": "OrderedReady", "leaderWorkerPattern": pattern}
    body = {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "RoleBasedGroup",
        "metadata": {"name": "g", "namespace": namespace},
        "spec": {"roles": [role | {"scalingAdapter": {"enable": True, "labels": {"a": "b"}}}]},
    }
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    before = read(plane, namespace, NEW, "g")["spec"]
    patch = [{"op": "replace", "path": "/spec/roles/0/replicas", "value": 3}]
    plane.kubectl("-n", namespace, "patch", OLD, "g", "--type=json", "-p", json.dumps(patch))
    after = read(plane, namespace, NEW, "g")["spec"]
    assert after["roles"][0]["replicas"] == 3
    before["roles"][0]["replicas"] = 3
    assert after == before


def test_server_side_apply_works_in_both_versions_on_one_object(plane: ControlPlane, namespace: str) -> None:
    def apply(version: str, manager: str, replicas: int, **role: Any) -> None:
        body = {
            "apiVersion": f"workloads.x-k8s.io/{version}",
            "kind": "RoleBasedGroup",
            "metadata": {"name": "g", "namespace": namespace},
            "spec": {"roles": [{"name": "r", "replicas": replicas} | role]},
        }
        arguments = ("--server-side", "--force-conflicts", f"--field-manager={manager}")
        plane.kubectl("apply", *arguments, "-f", "-", stdin=json.dumps(body))

    apply("v1alpha1", "old", 1, template=POD, restartPolicy="None")
    first = read(plane, namespace, OLD, "g")["metadata"]["resourceVersion"]
    apply("v1alpha1", "old", 1, template=POD, restartPolicy="None")
    assert read(plane, namespace, OLD, "g")["metadata"]["resourceVersion"] == first
    apply("v1alpha2", "new", 4)
    role = read(plane, namespace, OLD, "g")["spec"]["roles"][0]
    assert (role["replicas"], role["template"], role["restartPolicy"]) == (4, POD, "None")


def test_old_version_is_served_with_a_warning(plane: ControlPlane, namespace: str) -> None:
    completed = subprocess.run(
        [plane.binaries.kubectl, f"--kubeconfig={plane.kubeconfig}", "-n", namespace, "get", OLD],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        "workloads.x-k8s.io/v1alpha1 RoleBasedGroup is deprecated; use workloads.x-k8s.io/v1alpha2 RoleBasedGroup"
    ) in completed.stderr


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ({"name": "r"}, "template or templateRef must be given"),
        ({"name": "r", "template": POD, "templateRef": {"name": "t"}}, "template and templateRef exclude each other"),
        ({"name": "r", "template": POD, "workload": {"apiVersion": "nonsense"}}, "spec.roles[0].workload.apiVersion"),
        ({"name": "r", "template": POD, "standalonePattern": {"template": POD}}, "unknown field"),
    ],
)
def test_fault_of_an_old_manifest_is_reported_at_apply(
    plane: ControlPlane, namespace: str, role: dict[str, Any], message: str
) -> None:
    body = {
        "apiVersion": "workloads.x-k8s.io/v1alpha1",
        "kind": "RoleBasedGroup",
        "metadata": {"name": "g", "namespace": namespace},
        "spec": {"roles": [role]},
    }
    with pytest.raises(subprocess.CalledProcessError) as refused:
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    assert message in refused.value.stderr


def test_operator_keeps_the_crd_pointing_at_itself(plane: ControlPlane, kube: Kube, operator: OperatorProcess) -> None:
    def conversion() -> Any:
        return read(plane, "", "crd", CRD)["spec"]["conversion"]["webhook"]["clientConfig"]

    right = conversion()
    operator.stop()
    wrong = {"service": {"namespace": "elsewhere"}, "caBundle": None}
    patch = {"spec": {"conversion": {"webhook": {"clientConfig": wrong}}}}
    plane.kubectl("patch", "crd", CRD, "--type=merge", "-p", json.dumps(patch))
    operator.start()
    until("the CRD is right again", conversion, lambda seen: seen == right)


@pytest.mark.usefixtures("operator")
def test_old_group_is_realised_and_its_status_reads_the_same(kube: Kube, namespace: str) -> None:
    body = {
        "apiVersion": "workloads.x-k8s.io/v1alpha1",
        "kind": "RoleBasedGroup",
        "metadata": {"name": "demo", "namespace": namespace},
        "spec": {"roles": [{"name": "worker", "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}]},
    }
    kube.apply(body)
    path = f"/apis/workloads.x-k8s.io/v1alpha1/namespaces/{namespace}/rolebasedgroups/demo"
    until(
        "the verdict", lambda: condition(kube.get(path), "Ready"), lambda ready: ready.get("reason") == "RoleNotReady"
    )
    assert kube.get(f"/apis/apps/v1/namespaces/{namespace}/statefulsets/demo-worker")


def assert_within(written: Any, back: Any) -> None:
    """Everything that was written is there; what the schema adds may be there too."""
    if isinstance(written, dict):
        for key, value in written.items():
            assert key in back, key
            assert_within(value, back[key])
    elif isinstance(written, list):
        assert len(written) == len(back)
        for item, other in zip(written, back, strict=True):
            assert_within(item, other)
    else:
        assert written == back

"""Profiles that no pod could be made with: refused when they are applied, with the place of the fault."""

from __future__ import annotations

import json
from typing import Any

import pytest

from patio_testing.kube import Kube, KubectlError

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("webhooks")]

Object = dict[str, Any]

SIDE: Object = {"name": "side", "image": "side:1"}


def profile(name: str = "tried", **spec: Any) -> Object:
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "ClusterEngineRuntimeProfile",
        "metadata": {"name": name},
        "spec": {"updateStrategy": "NoUpdate"} | spec,
    }


def refusal(kube: Kube, document: Object) -> str:
    with pytest.raises(KubectlError) as failure:
        kube.apply(document)
    print(failure.value)
    return str(failure.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"containers": [SIDE, SIDE | {"name": "b", "imagePulPolicy": "Always"}]}, "spec.containers[1].imagePulPolicy"),
        ({"initContainers": [SIDE | {"restartpolicy": "Always"}]}, "spec.initContainers[0].restartpolicy"),
        ({"volumes": [{"name": "v", "emptydir": {}}]}, "spec.volumes[0].emptydir"),
        ({"containers": [SIDE | {"env": [{"name": "A", "valu": "1"}]}]}, "spec.containers[0].env[0].valu"),
        ({"containers": [{"name": "side"}]}, "spec.containers[0].image: Required value"),
        (
            {"containers": [SIDE | {"volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]}]},
            'spec.containers[0].volumeMounts[0].name: Not found: "nowhere"',
        ),
        (
            {
                "initContainers": [SIDE | {"restartPolicy": "Always", "ports": [{"containerPort": 9091}]}],
                "containers": [SIDE | {"name": "b", "ports": [{"containerPort": 1}, {"containerPort": 9091}]}],
            },
            "spec.containers[0].ports[1].containerPort: Duplicate value: 9091: "
            "spec.initContainers[0].ports[0].containerPort",
        ),
        ({"containers": [SIDE], "initContainers": [SIDE]}, "spec.initContainers[0].name: Duplicate value"),
        ({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]}, "spec.volumes[0].hostPath"),
        (
            {"containers": [SIDE, SIDE | {"name": "b", "resources": {"limits": {"cpu": "1", "memory": "64Mo"}}}]},
            "spec.containers[1].resources.limits.memory: quantities must match",
        ),
        ({"containers": [SIDE | {"command": "sh"}]}, "spec.containers[0].command: json: cannot unmarshal string"),
        (
            {"containers": [SIDE | {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]},
            "spec.containers[0].resources.requests",
        ),
    ],
)
def test_fault_is_rejected_with_its_path(kube: Kube, spec: Object, message: str) -> None:
    assert message in refusal(kube, profile(**spec))


def test_all_faults_are_reported_together(kube: Kube) -> None:
    message = refusal(kube, profile(containers=[{"name": "a"}, {"name": "b"}]))
    assert "spec.containers[0].image" in message
    assert "spec.containers[1].image" in message


def test_fault_is_rejected_in_the_old_version_too(kube: Kube) -> None:
    old = profile(containers=[SIDE | {"imagee": "x"}]) | {"apiVersion": "workloads.x-k8s.io/v1alpha1"}
    assert "spec.containers[0].imagee" in refusal(kube, old)


def test_two_containers_of_one_name_are_rejected_by_the_schema(kube: Kube) -> None:
    assert "spec.containers[1]: Duplicate value" in refusal(kube, profile(containers=[SIDE, SIDE]))


def test_impossible_container_name_is_rejected_by_the_schema(kube: Kube) -> None:
    assert "spec.containers[0].name" in refusal(kube, profile(containers=[{"name": "Side_car", "image": "x"}]))


def test_misspelt_field_of_the_profile_itself_is_rejected(kube: Kube) -> None:
    assert "spec.container" in refusal(kube, profile(container=[SIDE]))


def test_change_is_tried_and_a_rejected_one_leaves_what_was(kube: Kube) -> None:
    kube.apply(profile("changed", containers=[SIDE]))
    assert "spec.containers[0].image" in refusal(kube, profile("changed", containers=[{"name": "side"}]))
    path = "/apis/workloads.x-k8s.io/v1alpha2/clusterengineruntimeprofiles/changed"
    assert kube.get(path)["spec"]["containers"] == [SIDE]


def test_container_of_the_trials_own_name_is_no_fault(kube: Kube) -> None:
    kube.apply(profile("named", containers=[SIDE | {"name": "engine"}, SIDE | {"name": "engine-0"}]))


def test_operator_can_create_pods_of_its_own_by_dry_run_only(kube: Kube) -> None:
    operator = ("--as=system:serviceaccount:patio-system:patio-operator", "-n", "patio-system")
    create = ("create", "--validate=false", "-f", "-")
    pod = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"a","image":"a"}]}}'
    kube.kubectl(*operator, *create, "--dry-run=server", stdin=pod)
    with pytest.raises(KubectlError, match="by dry run only"):
        kube.kubectl(*operator, *create, stdin=pod)


def test_operator_creates_pods_elsewhere_for_a_group_only(kube: Kube, namespace: str) -> None:
    operator = ("--as=system:serviceaccount:patio-system:patio-operator", "-n", namespace)
    owner = {"apiVersion": "workloads.x-k8s.io/v1alpha2", "kind": "RoleBasedGroup", "name": "g", "uid": "1"}

    def create(name: str, *owners: dict[str, object]) -> None:
        metadata = {"name": name, "ownerReferences": list(owners)}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [SIDE]}}
        kube.kubectl(*operator, "create", "--validate=false", "-f", "-", stdin=json.dumps(pod))

    for owners in ((), (owner,), ({**owner, "kind": "Other", "controller": True},)):
        with pytest.raises(KubectlError, match="but for those of a RoleBasedGroup"):
            create("refused", *owners)
    create("of-a-group", {**owner, "controller": True})

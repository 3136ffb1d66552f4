"""RoleBasedGroups from one API version to the other and back: nothing that a user wrote is lost."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_api import crd
from patio_api.rolebasedgroup import RoleBasedGroup
from patio_api.rolebasedgroup_v1alpha1 import RoleBasedGroupV1alpha1
from patio_operator.groups import conversion
from patio_testing.upstream_samples import as_written, sample_id

from .schema_strategies import allowed_by, json_values, short_texts

Object = dict[str, Any]

NEW, OLD = "rbg.workloads.x-k8s.io/", "rolebasedgroup.workloads.x-k8s.io/"

(DEFINITION,) = (definition for definition in crd.DEFINITIONS if definition.model is RoleBasedGroup)
SCHEMAS = {
    version["name"]: version["schema"]["openAPIV3Schema"]["properties"]
    for version in DEFINITION.to_api()["spec"]["versions"]
}

annotations = st.dictionaries(
    st.sampled_from(
        [
            "mine",
            OLD + "exclusive-topology",
            NEW + "group-exclusive-topology",
            NEW + "group-gang-scheduling",
            NEW + "group-gang-scheduling-timeout",
            "conversion.workloads.x-k8s.io/v1alpha1-pod-group-policy",
            "conversion.workloads.x-k8s.io/v1alpha1-coordination",
        ]
    ),
    st.sampled_from(["true", "60", "{}", "[]", '{"kubeScheduling":{"scheduleTimeoutSeconds":60}}', "["]) | short_texts,
    min_size=1,
)


def objects(version: str) -> st.SearchStrategy[Object]:
    """RoleBasedGroups of a version, with annotations that conversion writes itself."""
    return st.builds(
        lambda spec, status, noted: {
            "apiVersion": f"workloads.x-k8s.io/{version}",
            "kind": "RoleBasedGroup",
            "metadata": {"name": "g", "namespace": "team", "uid": "u"} | ({"annotations": noted} if noted else {}),
            "spec": spec,
            "status": status,
        },
        allowed_by(SCHEMAS[version]["spec"]),
        allowed_by(SCHEMAS[version]["status"]),
        st.none() | annotations,
    )


def text(body: Object) -> str:
    """Exact: True is not 1."""
    return json.dumps(body, sort_keys=True)


@given(objects("v1alpha1"))
def test_to_the_new_version_and_back_is_nothing_at_all(body: Object) -> None:
    before = copy.deepcopy(body)
    assert text(conversion.to_v1alpha1(conversion.to_v1alpha2(body))) == text(body)
    assert body == before


@given(objects("v1alpha2"))
def test_to_the_old_version_and_back_is_nothing_at_all(body: Object) -> None:
    before = copy.deepcopy(body)
    assert text(conversion.to_v1alpha2(conversion.to_v1alpha1(body))) == text(body)
    assert body == before


@given(objects("v1alpha2"), st.integers(4, 9))
def test_edit_of_old_version_changes_nothing_else(body: Object, replicas: int) -> None:
    seen = conversion.to_v1alpha1(body)
    seen["spec"]["roles"][0]["replicas"] = replicas
    expected = copy.deepcopy(body)
    expected["spec"]["roles"][0]["replicas"] = replicas
    assert text(conversion.to_v1alpha2(seen)) == text(expected)


@given(objects("v1alpha1"), st.integers(4, 9))
def test_edit_of_new_version_changes_nothing_else(body: Object, replicas: int) -> None:
    seen = conversion.to_v1alpha2(body)
    seen["spec"]["roles"][0]["replicas"] = replicas
    expected = copy.deepcopy(body)
    expected["spec"]["roles"][0]["replicas"] = replicas
    assert text(conversion.to_v1alpha1(seen)) == text(expected)


WORKLOAD = {"apiVersion": "apps/v1", "kind": "StatefulSet"}
TEMPLATE = {"spec": {"containers": [{"name": "main", "image": "nginx"}]}}


def old(*roles: Object, metadata: Object | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha1",
        "kind": "RoleBasedGroup",
        "metadata": {"name": "g"} | (metadata or {}),
        "spec": {"roles": list(roles or ({"name": "r", "template": TEMPLATE, "workload": WORKLOAD},))} | spec,
    }


def new_role(role: Object) -> Object:
    (converted,) = conversion.to_v1alpha2(old(role))["spec"]["roles"]
    return dict(converted)


def test_template_becomes_standalone_pattern_workload_annotation() -> None:
    assert new_role({"name": "r", "replicas": 2, "template": TEMPLATE, "workload": {}}) == {
        "name": "r",
        "replicas": 2,
        "annotations": {NEW + "role-workload-type": "apps/v1/StatefulSet"},
        "podManagementPolicy": "Parallel",
        "standalonePattern": {"template": TEMPLATE},
    }


def test_leader_worker_set_becomes_a_leader_worker_pattern() -> None:
    role = new_role(
        {
            "name": "r",
            "restartPolicy": "None",
            "workload": {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"},
            "leaderWorkerSet": {"size": 2, "patchLeaderTemplate": {"a": 1}, "patchWorkerTemplate": {"b": None}},
            "templateRef": {"name": "base"},
            "templatePatch": {"spec": {}},
        }
    )
    assert role["annotations"] == {NEW + "role-workload-type": "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet"}
    assert role["leaderWorkerPattern"] == {
        "size": 2,
        "leaderTemplatePatch": {"a": 1},
        "workerTemplatePatch": {"b": None},
        "templateRef": {"name": "base", "patch": {"spec": {}}},
        "restartPolicyConfig": {"type": "None", "baseDelaySeconds": 30, "maxDelaySeconds": 600},
    }


def test_components_become_custom_components() -> None:
    component = {"name": "c", "size": 1, "serviceName": "s", "template": TEMPLATE}
    role = new_role({"name": "r", "components": [component], "workload": {"kind": "InstanceSet"}})
    assert role["customComponentsPattern"] == {"components": [component]}


def test_gang_scheduling_becomes_annotations_that_upstream_reads() -> None:
    converted = conversion.to_v1alpha2(old(podGroupPolicy={"volcanoScheduling": {"queue": "q"}}))
    assert converted["metadata"]["annotations"] == {
        NEW + "group-gang-scheduling": "true",
        NEW + "group-gang-scheduling-volcano-queue": "q",
        "conversion.workloads.x-k8s.io/v1alpha1-pod-group-policy": '{"volcanoScheduling":{"queue":"q"}}',
    }
    assert "podGroupPolicy" not in converted["spec"]


def test_gang_scheduling_removed_in_new_version_stays_removed() -> None:
    converted = conversion.to_v1alpha2(old(podGroupPolicy={"kubeScheduling": {"scheduleTimeoutSeconds": 60}}))
    del converted["metadata"]["annotations"][NEW + "group-gang-scheduling"]
    assert "podGroupPolicy" not in conversion.to_v1alpha1(converted)["spec"]


def test_exclusive_topology_annotation_works_in_old_version() -> None:
    body = old(metadata={"annotations": {OLD + "exclusive-topology": "zone"}})
    converted = conversion.to_v1alpha2(body)
    assert converted["metadata"]["annotations"][NEW + "group-exclusive-topology"] == "zone"


def test_field_of_old_version_alone_survives_edit_of_new_one() -> None:
    body = old({"name": "r", "template": TEMPLATE, "restartPolicy": "None"}, coordination=[{"name": "c", "roles": []}])
    converted = conversion.to_v1alpha2(body)
    converted["spec"]["roles"][0]["standalonePattern"]["template"] = {"spec": {"containers": [{"name": "other"}]}}
    back = conversion.to_v1alpha1(converted)
    assert back["spec"]["roles"][0]["restartPolicy"] == "None"
    assert back["spec"]["roles"][0]["template"]["spec"]["containers"] == [{"name": "other"}]
    assert back["spec"]["coordination"] == [{"name": "c", "roles": []}]


def test_removed_role_takes_what_was_kept_for_it_along() -> None:
    body = old({"name": "a", "template": TEMPLATE, "restartPolicy": "None"}, {"name": "b", "template": TEMPLATE})
    converted = conversion.to_v1alpha2(body)
    del converted["spec"]["roles"][0]
    assert [role["name"] for role in conversion.to_v1alpha1(converted)["spec"]["roles"]] == ["b"]


@pytest.mark.parametrize("junk", ["{", "{}", "[1]", '[{"at": []}]', "null"])
def test_annotation_of_another_writer_does_no_harm(junk: str) -> None:
    body = old(metadata={"annotations": {conversion.ONLY_IN_V1ALPHA2: junk}})
    assert "annotations" not in conversion.to_v1alpha2(body)["metadata"]


names = st.sampled_from(
    ["metadata", "annotations", "name", "spec", "roles", "r", "replicas", "template", "workload", "leaderWorkerPattern"]
)
differences = st.lists(
    st.fixed_dictionaries(
        {"at": st.lists(names, max_size=5)}, optional={"was": json_values, "is": json_values | st.just({"a": "b"})}
    ),
    max_size=4,
)


@given(differences | json_values, st.sampled_from([conversion.V1ALPHA1, conversion.V1ALPHA2]))
def test_any_annotation_leaves_identity_and_conversion_intact(junk: Any, version: str) -> None:
    body = old(metadata={"annotations": {"mine": "x"}})
    if version == conversion.V1ALPHA1:
        body = conversion.to_v1alpha2(body)
    for key in (conversion.ONLY_IN_V1ALPHA1, conversion.ONLY_IN_V1ALPHA2):
        body["metadata"]["annotations"][key] = json.dumps(junk)
    converted = conversion.convert(body, version)
    assert converted["metadata"]["name"] == "g"
    assert {type(value) for value in converted["metadata"].get("annotations", {}).values()} <= {str}
    assert [role["name"] for role in converted["spec"]["roles"]] == ["r"]


def test_unknown_version_is_an_error() -> None:
    with pytest.raises(conversion.ConversionError, match="cannot be converted"):
        conversion.convert(old(), "workloads.x-k8s.io/v1")


@pytest.mark.parametrize("written", as_written("RoleBasedGroup"), ids=sample_id)
def test_upstream_groups_round_trip_through_the_other_version(written: tuple[str, Object]) -> None:
    _, sample = written
    other = conversion.V1ALPHA1 if sample["apiVersion"] == conversion.V1ALPHA2 else conversion.V1ALPHA2
    converted = conversion.convert(sample, other)
    model = RoleBasedGroup if other == conversion.V1ALPHA2 else RoleBasedGroupV1alpha1
    model.model_validate(converted)
    assert conversion.convert(converted, sample["apiVersion"]) == sample

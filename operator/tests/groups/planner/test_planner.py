"""What a group becomes, and what is said about it: each behaviour that docs/concepts/rolebasedgroup.md promises."""

from __future__ import annotations

import copy
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from patio_api.rolebasedgroup import RoleBasedGroup
from patio_operator.groups.planner import planner
from patio_operator.groups.planner.plan import Plan
from patio_operator.groups.planner.snapshot import Snapshot

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
NEW, OLD = "rbg.workloads.x-k8s.io/", "rolebasedgroup.workloads.x-k8s.io/"

Object = dict[str, Any]


def role(name: str = "decode", **fields: Any) -> Object:
    """A standalone role with one nginx container; `fields` are further ones, `spec` its pod's."""
    pod_spec = fields.pop("spec", {"containers": [{"name": "main", "image": "nginx"}]})
    return {"name": name, "standalonePattern": {"template": {"spec": pod_spec}}} | fields


def group(*roles: Object, status: Object | None = None, **metadata: Any) -> RoleBasedGroup:
    """A group `g` in `team`."""
    extra = {key: metadata.pop(key) for key in ("roleTemplates",) if key in metadata}
    return RoleBasedGroup.model_validate(
        {
            "metadata": {"name": "g", "namespace": "team", "uid": "uid-g", "generation": 1} | metadata,
            "spec": {"roles": list(roles or (role(),))} | extra,
            "status": status or {},
        }
    )


def plan(of: RoleBasedGroup, *children: Object, profiles: tuple[str, ...] = ("patio",), now: datetime = NOW) -> Plan:
    return planner.plan(Snapshot(of, children, profiles, now))


def applied(result: Plan, kind: str, name: str) -> Object:
    found = [body for body in result.applies if (body["kind"], body["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, [(body["kind"], body["metadata"]["name"]) for body in result.applies]
    return found[0]


def names(result: Plan, kind: str) -> list[str]:
    return [body["metadata"]["name"] for body in result.applies if body["kind"] == kind]


def status_of(result: Plan) -> Object:
    assert result.status is not None
    return result.status


def ready(result: Plan) -> tuple[str, str, str]:
    (condition,) = status_of(result)["conditions"]
    assert condition["type"] == "Ready"
    return condition["status"], condition["reason"], condition["message"]


def observed(applied_body: Object, *, ready: int, uid: str = "uid-g", replicas: int | None = None) -> Object:
    """A StatefulSet, or what else was applied, as it is some time later."""
    child = copy.deepcopy(applied_body)
    child["metadata"] |= {"uid": f"uid-{child['metadata']['name']}", "generation": 3}
    child["metadata"]["ownerReferences"][0]["uid"] = uid
    if child["kind"] == "StatefulSet":
        count = child["spec"]["replicas"] if replicas is None else replicas
        child["status"] = {
            "observedGeneration": 3,
            "replicas": count,
            "readyReplicas": ready,
            "updatedReplicas": count,
        }
    return child


def children_of(of: RoleBasedGroup, *, ready: bool) -> list[Object]:
    """Everything of a group, with all pods ready or none."""
    return [
        observed(
            body,
            ready=body["spec"]["replicas"] if ready and body["kind"] == "StatefulSet" else 0,
        )
        for body in plan(of).applies
    ]


# --- objects


def test_role_becomes_a_stateful_set_with_a_headless_service() -> None:
    result = plan(group(role(replicas=2, minReadySeconds=5, labels={"team": "a"}, annotations={"note": "x"})))
    service = applied(result, "Service", "s-g-decode")
    workload = applied(result, "StatefulSet", "g-decode")
    identity = {
        NEW + "group-name": "g",
        NEW + "group-uid": hashlib.sha1(b"team/g").hexdigest(),
        NEW + "role-name": "decode",
    }
    assert service["spec"] == {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": identity}
    assert workload["spec"]["selector"] == {"matchLabels": identity}
    assert workload["spec"]["serviceName"] == "s-g-decode"
    assert workload["spec"]["podManagementPolicy"] == "Parallel"
    assert (workload["spec"]["replicas"], workload["spec"]["minReadySeconds"]) == (2, 5)
    for body in (service, workload):
        assert body["metadata"]["labels"] == {"team": "a", **identity}
        assert body["metadata"]["annotations"] == {"note": "x", NEW + "role-size": "2"}
        assert body["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "workloads.x-k8s.io/v1alpha2",
                "kind": "RoleBasedGroup",
                "name": "g",
                "uid": "uid-g",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]


def test_group_uid_is_the_one_that_upstream_computes() -> None:
    # recorded: group my-inference in namespace rec-patio
    of = group(name="my-inference", namespace="rec-patio")
    labels = applied(plan(of), "Service", "s-my-inference-decode")["metadata"]["labels"]
    assert labels[NEW + "group-uid"] == "8ae8400e1a3c922af15098d9e563daa060acb800"


def test_pods_carry_the_labels_of_both_generations_and_the_users() -> None:
    of = group(
        {
            "name": "r",
            "standalonePattern": {
                "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c"}]}}
            },
        }
    )
    labels = applied(plan(of), "StatefulSet", "g-r")["spec"]["template"]["metadata"]["labels"]
    assert labels["app"] == "x"
    assert (labels[NEW + "group-name"], labels[NEW + "role-name"]) == ("g", "r")
    assert (labels[OLD + "name"], labels[OLD + "role"]) == ("g", "r")
    assert labels[NEW + "component-name"] == "r"


def test_containers_have_identity_variables_before_their_own() -> None:
    spec = {
        "containers": [
            {"name": "a", "env": [{"name": "ME", "value": "$(RBG_ROLE_NAME)"}, {"name": "GROUP_NAME", "value": "mine"}]}
        ],
        "initContainers": [{"name": "once"}, {"name": "always", "restartPolicy": "Always"}],
    }
    pod = applied(plan(group(role(spec=spec))), "StatefulSet", "g-decode")["spec"]["template"]["spec"]
    variables = [variable["name"] for variable in pod["containers"][0]["env"]]
    assert variables == [
        "RBG_COMPONENT_INDEX",
        "RBG_COMPONENT_NAME",
        "RBG_GROUP_NAME",
        "RBG_ROLE_INDEX",
        "RBG_ROLE_INSTANCE_NAME",
        "RBG_ROLE_NAME",
        "COMPONENT_INDEX",
        "COMPONENT_NAME",
        "ROLE_INDEX",
        "INSTANCE_NAME",
        "ROLE_NAME",
        "ME",
        "GROUP_NAME",
    ]
    assert "env" not in pod["initContainers"][0]
    assert {"name": "GROUP_NAME", "value": "g"} in pod["initContainers"][1]["env"]
    assert {
        "name": "RBG_ROLE_INDEX",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}},
    } in pod["containers"][0]["env"]


def test_topology_is_a_file_in_every_container() -> None:
    of = group(
        role("router", replicas=1),
        role("prefill", replicas=2, servicePorts=[{"name": "HTTP-api", "port": 8000}, {"port": 9000}]),
    )
    result = plan(of)
    assert yaml.safe_load(applied(result, "ConfigMap", "g")["data"]["config.yaml"]) == {
        "group": {"name": "g", "roles": ["router", "prefill"], "size": 2},
        "roles": {
            "router": {"instances": [{"address": "g-router-0.s-g-router"}], "size": 1},
            "prefill": {
                "instances": [
                    {"address": "g-prefill-0.s-g-prefill", "ports": {"http_api": 8000, "port9000": 9000}},
                    {"address": "g-prefill-1.s-g-prefill", "ports": {"http_api": 8000, "port9000": 9000}},
                ],
                "size": 2,
            },
        },
    }
    pod = applied(result, "StatefulSet", "g-router")["spec"]["template"]["spec"]
    assert pod["containers"][0]["volumeMounts"] == [
        {"name": "rbg-cluster-config", "mountPath": "/etc/rbg", "readOnly": True}
    ]
    assert pod["volumes"][0]["configMap"]["name"] == "g"


def test_user_who_mounts_something_at_that_path_keeps_it() -> None:
    mount = {"name": "mine", "mountPath": "/etc/rbg/"}
    pod_spec = {"containers": [{"name": "a", "volumeMounts": [mount]}], "volumes": [{"name": "mine", "emptyDir": {}}]}
    pod = applied(plan(group(role(spec=pod_spec))), "StatefulSet", "g-decode")["spec"]["template"]["spec"]
    assert pod["containers"][0]["volumeMounts"] == [mount]


def test_shared_template_is_used_with_and_without_a_patch() -> None:
    shared = {
        "name": "base",
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "main", "image": "a"}]}},
    }
    of = group(
        {"name": "plain", "standalonePattern": {"templateRef": {"name": "base"}}},
        {
            "name": "patched",
            "standalonePattern": {
                "templateRef": {
                    "name": "base",
                    "patch": {"spec": {"containers": [{"name": "main", "ports": [{"containerPort": 80}]}]}},
                }
            },
        },
        roleTemplates=[shared],
    )
    result = plan(of)
    (plain,) = applied(result, "StatefulSet", "g-plain")["spec"]["template"]["spec"]["containers"]
    (patched,) = applied(result, "StatefulSet", "g-patched")["spec"]["template"]["spec"]["containers"]
    assert (plain["image"], patched["image"], patched["ports"]) == ("a", "a", [{"containerPort": 80}])


def test_template_asks_for_profiles_and_does_not_contain_them() -> None:
    runtime = {"profileName": "patio", "containers": [{"name": "patio", "args": ["-x"]}]}
    template = applied(plan(group(role(engineRuntimes=[runtime]))), "StatefulSet", "g-decode")["spec"]["template"]
    assert template["metadata"]["labels"]["patio.dev/engine-runtimes"] == "true"
    assert template["metadata"]["annotations"] == {
        "patio.dev/engine-runtimes": '[{"containers":[{"args":["-x"],"name":"patio"}],"profileName":"patio"}]'
    }
    assert [container["name"] for container in template["spec"]["containers"]] == ["main"]


def test_same_group_gives_the_same_objects() -> None:
    of = group(role(engineRuntimes=[{"profileName": "patio"}]))
    assert json.dumps(plan(of).applies) == json.dumps(plan(of, now=NOW + timedelta(hours=1)).applies)


@pytest.mark.parametrize(
    ("rolling_update", "result"),
    [
        ({}, {"partition": 0}),
        ({"partition": 2}, {"partition": 2}),
        ({"partition": "30%"}, {"partition": 2}),
        ({"paused": True}, {"partition": 4}),
        ({"maxUnavailable": 1}, {"partition": 0}),
        ({"maxUnavailable": 2}, {"partition": 0, "maxUnavailable": 2}),
        ({"maxUnavailable": "60%"}, {"partition": 0, "maxUnavailable": 3}),
        ({"maxUnavailable": 0, "maxSurge": 1}, {"partition": 0}),
    ],
)
def test_rollout_is_passed_on(rolling_update: Object, result: Object) -> None:
    of = group(role(replicas=4, rolloutStrategy={"rollingUpdate": rolling_update}))
    strategy = applied(plan(of), "StatefulSet", "g-decode")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": result}


# --- dependencies


def test_role_waits_for_those_it_depends_on() -> None:
    of = group(role("router"), role("decode", dependencies=["router"]))
    first = plan(of)
    assert (names(first, "StatefulSet"), names(first, "Service")) == (["g-router"], ["s-g-router"])
    assert ready(first) == ("False", "RoleNotReady", "Not all roles are ready: router 0/1; decode waits for router")
    unready = observed(applied(first, "StatefulSet", "g-router"), ready=0)
    assert names(plan(of, unready), "StatefulSet") == ["g-router"]
    router = observed(applied(first, "StatefulSet", "g-router"), ready=1)
    assert names(plan(of, router), "StatefulSet") == ["g-router", "g-decode"]


def test_existing_role_is_updated_whatever_its_dependencies_do() -> None:
    of = group(role("router"), role("decode", dependencies=["router"]))
    router = observed(applied(plan(of), "StatefulSet", "g-router"), ready=1)
    decode = observed(applied(plan(of, router), "StatefulSet", "g-decode"), ready=1)
    router["status"]["readyReplicas"] = 0
    assert names(plan(of, router, decode), "StatefulSet") == ["g-router", "g-decode"]


@pytest.mark.parametrize(
    ("dependencies", "message"),
    [
        ({"a": ["nobody"]}, "role 'a' depends on 'nobody', which is not a role"),
        ({"a": ["a"]}, "a -> a"),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, "b -> c -> b"),
    ],
)
def test_impossible_dependencies_are_reported_and_create_nothing(
    dependencies: dict[str, list[str]], message: str
) -> None:
    of = group(*(role(name, dependencies=dependencies.get(name, [])) for name in "abc"))
    result = plan(of)
    status, reason, text = ready(result)
    assert (status, reason, result.applies) == ("False", "InvalidDependency", ())
    assert message in text


# --- what is refused


UNSUPPORTED = [
    ({"name": "r", "customComponentsPattern": {"components": []}}, "customComponentsPattern"),
    (
        {
            "name": "r",
            "customComponentsPattern": {
                "components": [{"name": "c", "template": {}, "annotations": {OLD + "port-allocator": "{}"}}]
            },
        },
        "port-allocator of component 'c'",
    ),
    (role("r", annotations={NEW + "role-workload-type": "batch/v1/Job"}), "batch/v1/Job"),
    (role("r", annotations={NEW + "role-instance-gang-scheduling": "true"}), "role-instance-gang-scheduling"),
    (role("r", annotations={NEW + "role-inplace-scheduling": "Required"}), "role-inplace-scheduling"),
    (role("r" * 60), "62 characters"),
]


@pytest.mark.parametrize(("refused", "field"), UNSUPPORTED)
def test_unsupported_field_is_named_with_remedy_nothing_is_made(refused: Object, field: str) -> None:
    result = plan(group(role("fine"), refused))
    status, reason, message = ready(result)
    assert (status, reason) == ("False", "Unsupported")
    assert field in message
    assert f"role {refused['name']!r}" in message
    assert any(remedy in message for remedy in ("use standalonePattern", "remove it", "shorten"))
    assert (result.applies, result.deletes) == ((), ())
    assert [event.reason for event in result.events] == ["Unsupported"]


@pytest.mark.parametrize(
    ("key", "field"),
    [
        (NEW + "group-gang-scheduling", "group-gang-scheduling"),
        (NEW + "group-exclusive-topology", "group-exclusive-topology"),
        ("conversion.workloads.x-k8s.io/v1alpha1-coordination", "spec.coordination (v1alpha1)"),
    ],
)
def test_unsupported_annotations_of_a_group_are_rejected(key: str, field: str) -> None:
    result = plan(group(annotations={key: "true"}))
    assert ready(result)[1] == "Unsupported"
    assert field in ready(result)[2]
    assert result.applies == ()


@pytest.mark.parametrize(
    ("invalid", "reason", "message"),
    [
        ({"name": "r"}, "InvalidSpec", "role 'r' has no pattern"),
        (role("r", spec={}), "InvalidSpec", "no containers"),
        (role("R"), "InvalidSpec", "not a valid DNS label"),
        (role("r", rolloutStrategy={"rollingUpdate": {"partition": "two"}}), "InvalidSpec", "partition is 'two'"),
        ({"name": "r", "standalonePattern": {"templateRef": {"name": "x"}}}, "InvalidTemplateRef", "'x'"),
    ],
)
def test_impossible_group_is_reported_and_creates_nothing(invalid: Object, reason: str, message: str) -> None:
    result = plan(group(invalid))
    assert ready(result)[1] == reason
    assert message in ready(result)[2]
    assert result.applies == ()


def test_patch_that_cannot_be_applied_says_where() -> None:
    pattern = {"templateRef": {"name": "base", "patch": {"spec": {"containers": [{"image": "x"}]}}}}
    shared = {"name": "base", "template": {"spec": {"containers": [{"name": "a"}]}}}
    result = plan(group({"name": "r", "standalonePattern": pattern}, roleTemplates=[shared]))
    assert "role 'r': standalonePattern.templateRef.patch.spec.containers: an element has no name" in ready(result)[2]


def test_group_that_becomes_unsupported_keeps_what_it_has() -> None:
    before = group(role("a"))
    children = children_of(before, ready=True)
    result = plan(group(role("a"), annotations={NEW + "group-gang-scheduling": "true"}), *children)
    assert (result.applies, result.deletes) == ((), ())
    assert status_of(result)["roleStatuses"] == [{"name": "a", "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}]


def test_object_of_another_owner_is_not_taken_over() -> None:
    foreign = observed(applied(plan(group()), "StatefulSet", "g-decode"), ready=1, uid="somebody")
    result = plan(group(), foreign)
    assert ready(result)[1] == "NameTaken"
    assert "StatefulSet 'g-decode'" in ready(result)[2]
    assert result.applies == ()


def test_missing_profile_is_reported_and_only_its_role_waits() -> None:
    of = group(role("a", engineRuntimes=[{"profileName": "nobody"}]), role("b"))
    result = plan(of)
    assert ready(result)[1] == "ProfileNotFound"
    assert "role 'a' asks for ClusterEngineRuntimeProfile 'nobody'" in ready(result)[2]
    assert names(result, "StatefulSet") == ["g-b"]
    assert names(plan(of, profiles=("nobody",)), "StatefulSet") == ["g-a", "g-b"]


def test_running_role_keeps_running_when_its_profile_goes() -> None:
    of = group(role("a", engineRuntimes=[{"profileName": "patio"}]))
    result = plan(of, *children_of(of, ready=True), profiles=())
    assert (names(result, "StatefulSet"), result.deletes) == ([], ())


# --- removed roles


def test_what_is_left_of_a_removed_role_is_deleted() -> None:
    before = group(role("a"), role("b"))
    result = plan(group(role("a")), *children_of(before, ready=True))
    assert [(deleted.kind, deleted.name, deleted.uid) for deleted in result.deletes] == [
        ("Service", "s-g-b", "uid-s-g-b"),
        ("StatefulSet", "g-b", "uid-g-b"),
    ]


def test_only_what_this_group_controls_is_deleted() -> None:
    children = children_of(group(role("a"), role("b")), ready=True)
    for child in children:
        if child["metadata"]["name"].endswith("-b"):
            child["metadata"]["ownerReferences"] = []
    assert plan(group(role("a")), *children).deletes == ()


# --- status


def test_group_is_ready_when_all_its_instances_are() -> None:
    of = group(role("a", replicas=2), role("b"))
    assert ready(plan(of, *children_of(of, ready=False)))[2] == "Not all roles are ready: a 0/2; b 0/1"
    result = plan(of, *children_of(of, ready=True))
    assert ready(result) == ("True", "AllRolesReady", "All roles are ready")
    assert status_of(result)["roleStatuses"] == [
        {"name": "a", "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2},
        {"name": "b", "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1},
    ]
    assert status_of(result)["observedGeneration"] == 1


def test_role_with_too_many_or_too_few_instances_is_not_ready() -> None:
    of = group(role("a", replicas=2))
    workload = applied(plan(of), "StatefulSet", "g-a")
    for replicas in (1, 3):
        assert ready(plan(of, observed(workload, ready=replicas, replicas=replicas)))[0] == "False"


def test_scaled_role_is_not_ready_before_its_stateful_set_scaled() -> None:
    small = observed(applied(plan(group(role("a", replicas=1))), "StatefulSet", "g-a"), ready=1)
    assert ready(plan(group(role("a", replicas=2)), small))[2] == "Not all roles are ready: a 1/2"


def test_counts_of_an_older_generation_are_ignored() -> None:
    of = group(
        role("a"),
        status={"roleStatuses": [{"name": "a", "replicas": 1, "readyReplicas": 0, "updatedReplicas": 1}]},
    )
    stale = observed(applied(plan(of), "StatefulSet", "g-a"), ready=1)
    stale["metadata"]["generation"] = 4
    result = plan(of, stale)
    assert ready(result)[0] == "False"
    assert status_of(result)["roleStatuses"][0]["readyReplicas"] == 0


def test_role_of_no_replicas_is_ready_once_it_exists() -> None:
    of = group(role("a", replicas=0), role("b", dependencies=["a"]))
    assert names(plan(of), "StatefulSet") == ["g-a"]
    workload = observed(applied(plan(of), "StatefulSet", "g-a"), ready=0)
    assert names(plan(of, workload), "StatefulSet") == ["g-a", "g-b"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
                ]
            },
            "a 0/1 (g-a-0: Unschedulable: no GPU)",
        ),
        (
            {"containerStatuses": [{"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
            "a 0/1 (g-a-0: main: ImagePullBackOff)",
        ),
        ({"containerStatuses": [{"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, "a 0/1"),
        ({}, "a 0/1"),
    ],
)
def test_what_keeps_a_pod_from_running_is_reported(status: Object, message: str) -> None:
    of = group(role("a"))
    metadata = {"name": "g-a-0", "namespace": "team", "uid": "p", "labels": {NEW + "role-name": "a"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}
    assert ready(plan(of, *children_of(of, ready=False), pod))[2] == f"Not all roles are ready: {message}"


def test_time_of_the_condition_moves_only_with_its_status() -> None:
    of = group(role("a"))
    first = status_of(plan(of))
    later = NOW + timedelta(hours=1)
    children = children_of(of, ready=False)
    unchanged = status_of(plan(group(role("a"), status=first), *children, now=later))
    assert unchanged["conditions"][0]["lastTransitionTime"] == first["conditions"][0]["lastTransitionTime"]
    changed = status_of(plan(group(role("a"), status=first), *children_of(of, ready=True), now=later))
    assert changed["conditions"][0]["lastTransitionTime"] == "2026-11-21T13:00:00Z"


def test_status_that_is_right_is_computed_the_same_again() -> None:
    of = group(role("a"))
    children = children_of(of, ready=True)
    first = status_of(plan(of, *children))
    assert plan(group(role("a"), status=first), *children, now=NOW + timedelta(days=1)).status == first


# --- events


def test_events_tell_what_changed_and_are_not_repeated() -> None:
    of = group(role("a"))
    first = plan(of)
    assert [(event.type, event.reason) for event in first.events] == [("Normal", "RoleCreated")]
    children = children_of(of, ready=True)
    became_ready = plan(group(role("a"), status=first.status), *children)
    assert [(event.type, event.reason) for event in became_ready.events] == [("Normal", "AllRolesReady")]
    assert plan(group(role("a"), status=became_ready.status), *children).events == ()


def test_rejection_is_an_event_once() -> None:
    refused = {"name": "r", "customComponentsPattern": {"components": []}}
    first = plan(group(refused))
    assert [(event.type, event.reason) for event in first.events] == [("Warning", "Unsupported")]
    assert plan(group(refused, status=first.status)).events == ()


def test_what_differs_from_the_spec_is_reported_once() -> None:
    unsupported_role = role(
        "a",
        scalingAdapter={"enable": True},
        podManagementPolicy="OrderedReady",
        annotations={NEW + "role-instance-pattern": "Stateless", NEW + "role-workload-type": "apps/v1/Deployment"},
        rolloutStrategy={"rollingUpdate": {"type": "InPlaceIfPossible", "maxSurge": 1}},
    )
    first = plan(group(unsupported_role))
    message = " ".join(event.message for event in first.events if event.reason == "DiffersFromSpec")
    for word in ("Deployment", "scalingAdapter", "OrderedReady", "Stateless", "InPlaceIfPossible", "maxSurge"):
        assert word in message
    again = plan(group(unsupported_role, status=first.status), *children_of(group(unsupported_role), ready=True))
    assert all(event.reason != "DiffersFromSpec" for event in again.events)


def test_users_own_volume_for_the_topology_file_is_kept() -> None:
    spec = {
        "containers": [{"name": "main", "image": "nginx"}],
        "volumes": [{"name": "rbg-cluster-config", "emptyDir": {}}],
    }
    result = plan(group(role(spec=spec)))
    (name,) = names(result, "StatefulSet")
    made = applied(result, "StatefulSet", name)["spec"]["template"]["spec"]
    assert made["volumes"] == spec["volumes"]
    assert "volumeMounts" not in made["containers"][0]

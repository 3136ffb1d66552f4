"""Observe mode: what admission makes of pods that upstream's RoleBasedGroup controller really made."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.injection import (
    Injection,
    PodRejection,
    Runtime,
    RuntimeRef,
    inject,
    json_patch,
    member_of,
    revision,
    runtimes_of,
    runtimes_of_role,
)

Object = dict[str, Any]

RECORDED: list[Object] = list(
    yaml.safe_load_all((Path(__file__).parents[1] / "recorded" / "rbg_objects.yaml").read_text())
)
GROUPS = {document["metadata"]["name"]: document for document in RECORDED if document["kind"] == "RoleBasedGroup"}
PROFILES = {
    document["metadata"]["name"]: ClusterEngineRuntimeProfile.model_validate(document)
    for document in RECORDED
    if document["kind"] == "ClusterEngineRuntimeProfile"
}
PODS = {document["metadata"]["name"]: document for document in RECORDED if document["kind"] == "Pod"}
LISTS = ("initContainers", "containers", "volumes")
BOTH_FAMILIES = {
    "RBG_GROUP_NAME": "GROUP_NAME",
    "RBG_ROLE_NAME": "ROLE_NAME",
    "RBG_ROLE_INDEX": "ROLE_INDEX",
    "RBG_ROLE_INSTANCE_NAME": "INSTANCE_NAME",
    "RBG_COMPONENT_NAME": "COMPONENT_NAME",
    "RBG_COMPONENT_INDEX": "COMPONENT_INDEX",
}


def requested(pod: Object) -> tuple[RuntimeRef, ...]:
    member = member_of(pod)
    assert member is not None
    group, role = member
    of_its_role = runtimes_of_role(pod, GROUPS[group], role)
    assert not isinstance(of_its_role, PodRejection)
    refs = runtimes_of(pod, of_its_role)
    assert not isinstance(refs, PodRejection)
    return refs


def admitted(pod: Object, profiles: dict[str, ClusterEngineRuntimeProfile] = PROFILES) -> Injection:
    runtimes = [
        Runtime(profiles[ref.profile_name], ref.overrides, ref.inject_containers, ref.rendered)
        for ref in requested(pod)
    ]
    result = inject(pod, runtimes, ())
    assert isinstance(result, Injection), result
    return result


def container(pod: Object, name: str) -> Object:
    (found,) = [container for key in LISTS[:2] for container in pod["spec"].get(key) or [] if container["name"] == name]
    return found


def env(pod: Object, name: str) -> dict[str, str]:
    """A container's variables as the kubelet resolves them: fields of the pod, and references to what comes before."""
    resolved: dict[str, str] = {}
    for variable in container(pod, name).get("env") or []:
        value = variable.get("value") or ""
        if "valueFrom" in variable:
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            label = re.fullmatch(r"metadata\.labels\['(.*)'\]", path)
            value = pod["metadata"]["labels"][label[1]] if label else f"<{path}>"
        resolved[variable["name"]] = re.sub(
            r"\$\((\w+)\)", lambda match, known=resolved: known.get(match[1], match[0]), value
        )
    return resolved


PROFILED = [name for name, pod in PODS.items() if requested(pod)]


def test_exactly_the_pods_that_get_a_profile_upstream_get_one() -> None:
    named = {name: {ref.profile_name for ref in requested(pod)} for name, pod in PODS.items()}
    for name, pod in PODS.items():
        rendered = {
            profile.metadata.name
            for profile in PROFILES.values()
            if {container["name"] for container in profile.spec.containers}
            <= {container["name"] for container in pod["spec"]["containers"]}
        }
        assert named[name] == rendered
    assert named["my-inference-multi-0-0"], "the leader of an instance has it"
    assert not named["my-inference-multi-0-1"], "its worker has not"
    assert not named["my-inference-router-0"]


@pytest.mark.parametrize("name", PODS)
def test_parts_by_upstream_are_not_dropped_reordered_or_doubled(name: str) -> None:
    before, after = PODS[name], admitted(PODS[name]).pod
    for key in LISTS:
        assert [container["name"] for container in after["spec"].get(key) or []] == [
            container["name"] for container in before["spec"].get(key) or []
        ]
    assert {**after["spec"], **dict.fromkeys(LISTS)} == {**before["spec"], **dict.fromkeys(LISTS)}
    assert after["metadata"]["labels"].items() >= before["metadata"]["labels"].items()
    for key in LISTS[:2]:
        for old, new in zip(before["spec"].get(key) or [], after["spec"].get(key) or [], strict=True):
            same = ("name", "image", "command", "args", "ports", "resources")
            assert [old.get(field) for field in same] == [new.get(field) for field in same]
            assert {variable["name"] for variable in new.get("env") or []} >= {
                variable["name"] for variable in old.get("env") or []
            }


@pytest.mark.parametrize("name", PODS)
def test_second_admission_changes_nothing(name: str) -> None:
    once = admitted(PODS[name]).pod
    assert json_patch(once, admitted(copy.deepcopy(once)).pod) == []


@pytest.mark.parametrize("name", [name for name in PODS if name not in PROFILED])
def test_pod_without_a_profile_is_left_as_it_is(name: str) -> None:
    assert admitted(PODS[name]).pod == PODS[name]


@pytest.mark.parametrize("name", PROFILED)
def test_profile_containers_get_both_families_and_instance_index(name: str) -> None:
    after = admitted(PODS[name]).pod
    (ref,) = requested(PODS[name])
    spec = PROFILES[ref.profile_name].spec
    natives = [container for container in spec.init_containers if container.get("restartPolicy") == "Always"]
    for container in (*spec.containers, *natives):
        variables = env(after, container["name"])
        for new, old in BOTH_FAMILIES.items():
            assert variables[new] == variables[old]
        assert variables["ROLE_INDEX"] == variables["INSTANCE_NAME"].rsplit("-", 1)[-1]
        assert variables["POD_IP"] == "<status.podIP>"
        assert "$(" not in "".join(variables.values())


def test_wrong_index_of_upstream_stays_in_the_users_containers() -> None:
    before = PODS["my-inference-inference-0"]
    assert env(before, "patio")["RBG_ROLE_INDEX"] == "2", "upstream's fault, on which this test stands"
    after = admitted(before).pod
    assert env(after, "patio")["RBG_ROLE_INDEX"] == "0"
    assert env(after, "sglang")["RBG_ROLE_INDEX"] == "2", "what the user wrote is not ours"


@pytest.mark.parametrize("sidecar", ["patio", "native"])
def test_leaders_sidecars_know_their_instance(sidecar: str) -> None:
    variables = env(admitted(PODS["my-inference-multi-1-0"]).pod, sidecar)
    address = "my-inference-multi-1-0.s-my-inference-multi.rec-patio"
    assert variables["LWS_LEADER_ADDRESS"] == variables["RBG_LWP_LEADER_ADDRESS"] == address
    assert variables["LWS_WORKER_INDEX"] == variables["RBG_LWP_WORKER_INDEX"] == "0"
    assert variables["LWS_GROUP_SIZE"] == variables["RBG_LWP_GROUP_SIZE"] == "2"


def test_pod_says_which_revision_it_has() -> None:
    after = admitted(PODS["my-inference-inference-1"]).pod
    current_revision = revision(PROFILES["patio-runtime"])
    assert after["metadata"]["annotations"]["patio.dev/injected"] == f'{{"patio-runtime": "{current_revision}"}}'
    assert after["metadata"]["labels"]["patio.dev/injected"] == "true"


def test_profile_changed_after_upstream_rendered_it_rejects_none() -> None:
    before = PODS["gpu-inference-decode-0"]
    result = admitted(before)
    assert container(result.pod, "gpu-monitor")["image"] == container(before, "gpu-monitor")["image"]
    assert result.pod["metadata"]["annotations"]["patio.dev/injected"] == '{"nvidia-runtime-profile": "unknown"}'
    assert any("'gpu-monitor'" in warning and "changes nothing else" in warning for warning in result.warnings)
    assert {"name": "gpu-lib", "mountPath": "/usr/local/lib/gpu"} in container(result.pod, "decode-main")[
        "volumeMounts"
    ], "what injectContainers promises and upstream does not do"


def test_what_upstream_does_not_render_is_injected() -> None:
    rendered_before_the_role_named_it = copy.deepcopy(PODS["my-inference-inference-1"])
    spec = rendered_before_the_role_named_it["spec"]
    spec["containers"] = [container for container in spec["containers"] if container["name"] != "patio"]
    del spec["initContainers"]
    after = admitted(rendered_before_the_role_named_it).pod
    assert container(after, "patio")["args"] == ["--bind", "0.0.0.0"]
    assert env(after, "native")["GROUP_NAME"] == "my-inference"


def old_pod(owner: str, **labels: str) -> Object:
    own = {"apiVersion": "apps/v1", "kind": owner, "name": "g-r", "uid": "u", "controller": True}
    return {
        "metadata": {"name": "g-r-1", "labels": labels, "ownerReferences": [own]},
        "spec": {"containers": [{"name": "sglang", "image": "i"}]},
    }


OLD = {"rolebasedgroup.workloads.x-k8s.io/name": "g", "rolebasedgroup.workloads.x-k8s.io/role": "r"}
OLD_GROUP: Object = {
    "apiVersion": "workloads.x-k8s.io/v1alpha1",
    "spec": {"roles": [{"name": "r", "leaderWorkerSet": {"size": 2}, "engineRuntimes": [{"profileName": "p"}]}]},
}


def test_groups_of_upstream_before_07_are_found_by_their_labels() -> None:
    assert member_of(old_pod("StatefulSet", **OLD)) == ("g", "r")
    leader = old_pod("StatefulSet", **OLD, **{"leaderworkerset.sigs.k8s.io/worker-index": "0"})
    worker = old_pod("StatefulSet", **OLD, **{"leaderworkerset.sigs.k8s.io/worker-index": "1"})
    assert runtimes_of_role(leader, OLD_GROUP, "r") == (RuntimeRef("p", rendered=True),)
    assert runtimes_of_role(worker, OLD_GROUP, "r") == ()


def test_pod_without_a_controller_is_no_member() -> None:
    stray = old_pod("StatefulSet", **OLD)
    del stray["metadata"]["ownerReferences"]
    assert member_of(stray) is None


def test_role_that_the_group_no_longer_has_asks_for_nothing() -> None:
    assert runtimes_of_role(old_pod("StatefulSet", **OLD), OLD_GROUP, "gone") == ()


def test_own_profiles_of_a_pod_are_added_and_role_entry_wins() -> None:
    pod = old_pod("StatefulSet", **OLD, **{"patio.dev/profile": "mine"})
    of_its_role = (RuntimeRef("p", ({"name": "c"},), rendered=True),)
    assert runtimes_of(pod, of_its_role) == (*of_its_role, RuntimeRef("mine"))
    pod["metadata"]["labels"]["patio.dev/profile"] = "p"
    assert runtimes_of(pod, of_its_role) == of_its_role


@pytest.mark.parametrize(
    ("instance", "index"), [("g-r-12", "12"), ("g-r-0", "0"), ("g-r-x7k24", None), ("g-r-24456", None)]
)
def test_index_comes_from_instance_name_and_stateless_has_none(instance: str, index: str) -> None:
    pod = old_pod("RoleInstance", **{"rbg.workloads.x-k8s.io/group-name": "g", "rbg.workloads.x-k8s.io/role-name": "r"})
    pod["metadata"]["ownerReferences"][0]["name"] = instance
    profile = ClusterEngineRuntimeProfile.model_validate(
        {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "side", "image": "s"}]}}
    )
    result = inject(pod, [Runtime(profile, rendered=True)], ())
    assert isinstance(result, Injection)
    variables = env(result.pod, "side")
    assert variables.get("ROLE_INDEX") == variables.get("RBG_ROLE_INDEX") == index
    assert variables["INSTANCE_NAME"] == instance

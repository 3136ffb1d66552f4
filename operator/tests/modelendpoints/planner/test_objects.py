"""Groups that are made of endpoints are such as Patio itself realises, and injection finds the engine in their pods."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from patio_api.rolebasedgroup import RoleBasedGroup
from patio_operator.groups.planner import planner as groups_planner
from patio_operator.groups.planner.snapshot import Snapshot as GroupSnapshot
from patio_operator.injection.engine import find_engine
from patio_operator.modelendpoints.planner.objects import role_based_group

from ..builders import IMAGES, NOW, SIDECARS, SPLIT, endpoint

Object = dict[str, Any]
SPECS: list[Object] = [
    {},
    {"engine": "sglang", "adapters": {"selector": {"matchLabels": {"for": "qwen"}}}},
    {"roles": [{"type": "server", "template": {"spec": {"nodeSelector": {"gpu": "a100"}}}}]},
    {"roles": [{"type": "server", "nodesPerWorker": 2}]},
    {"roles": [{"type": "server", "nodesPerWorker": 2}], "engine": "sglang"},
    {"model": {"uri": "s3://bucket/qwen"}, "source": {"secretRef": {"name": "s"}, "region": "eu"}},
    {"cache": {"hostPath": "/var/cache/models"}},
    SPLIT,
]


def realised(spec: Object, name: str = "qwen") -> tuple[Object, list[Object]]:
    """What Patio makes of the group of an endpoint: its status, and the pod templates and pods."""
    body = role_based_group(endpoint(name, **spec), 2, SIDECARS, IMAGES)
    body["metadata"] |= {"uid": "uid-g", "generation": 1}
    group = RoleBasedGroup.model_validate(copy.deepcopy(body))
    plan = groups_planner.plan(GroupSnapshot(group, [], {"patio"}, NOW))
    sets = [each["spec"]["template"] for each in plan.applies if each["kind"] == "StatefulSet"]
    assert plan.status is not None
    return plan.status, [*sets, *plan.creates]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: ",".join(spec) or "smallest")
def test_group_of_an_endpoint_is_realised_as_written(spec: Object) -> None:
    status, pods = realised(spec)
    (ready,) = status["conditions"]
    assert ready["reason"] == "RoleNotReady", ready["message"]
    kinds = {find_engine(pod["spec"]["containers"]).kind for pod in pods if _has_engine(pod)}
    assert kinds == {spec.get("engine", "vllm")}
    for pod in pods:
        assert pod["metadata"]["labels"]["patio.dev/endpoint"] == "qwen"


def _has_engine(pod: Object) -> bool:
    return any(container["name"] == "engine" for container in pod["spec"]["containers"])


def test_users_patch_reaches_the_pods() -> None:
    _, (pod,) = realised(SPECS[2])
    assert pod["spec"]["nodeSelector"] == {"gpu": "a100"}
    assert pod["spec"]["containers"][0]["command"] == ["vllm", "serve"]


def test_leaders_alone_take_requests() -> None:
    _, pods = realised(SPECS[3])
    taking = {pod["metadata"]["name"][-3:]: "patio.dev/takes-requests" in pod["metadata"]["labels"] for pod in pods}
    assert taking == {"0-0": True, "0-1": False, "1-0": True, "1-1": False}


def test_longest_name_is_realised_too() -> None:
    for spec in (SPLIT, {"roles": [{"type": "server", "nodesPerWorker": 64}]}):
        status, _ = realised(spec, "q" * 63)
        assert status["conditions"][0]["reason"] == "RoleNotReady", status["conditions"][0]["message"]


def container_of(name: str, **spec: Any) -> Object:
    """The container of a role of an endpoint's group."""
    body = role_based_group(endpoint(**spec), 1, SIDECARS, IMAGES)
    roles = {role["name"]: role for role in body["spec"]["roles"]}
    container: Object = roles[name]["standalonePattern"]["template"]["spec"]["containers"][0]
    return container


def test_resources_and_variables_of_a_role_reach_its_container() -> None:
    resources = {"limits": {"nvidia.com/gpu": "1"}}
    variables = [{"secretRef": {"name": "engine"}}]
    engine = container_of("server", roles=[{"type": "server", "resources": resources, "envFrom": variables}])
    assert (engine["resources"], engine["envFrom"]) == (resources, variables)
    router = container_of("router", **{**SPLIT, "router": SPLIT["router"] | {"resources": resources}})
    assert router["resources"] == resources


@pytest.mark.parametrize(
    ("address", "variable"),
    [("hub.example.com", "https://hub.example.com"), ("http://hub:8080", "http://hub:8080")],
)
def test_hub_of_the_source_reaches_the_engine(address: str, variable: str) -> None:
    engine = container_of("server", source={"endpoint": address, "secretRef": {"name": "hub"}})
    variables = {each["name"]: each for each in engine["env"]}
    assert variables["HF_ENDPOINT"]["value"] == variable
    key = variables["HF_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert (key["name"], key["key"]) == ("hub", "HF_AUTH_TOKEN")


def test_source_without_a_secret_has_its_options_alone() -> None:
    engine = container_of("server", model={"uri": "s3://bucket/qwen"}, source={"region": "eu"})
    fetching = {each["name"]: each for each in engine["env"] if each["name"].startswith("PATIO_SOURCE_")}
    assert fetching["PATIO_SOURCE_REGION"]["value"] == "eu"
    assert "PATIO_SOURCE_ACCESS_KEY" not in fetching

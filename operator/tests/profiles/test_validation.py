"""Trials of profiles: the pod that is asked about, and how the API server's answers are read."""

from __future__ import annotations

from typing import Any

import pytest

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.profiles import validation
from patio_operator.profiles.validation import DryRunResult, InvalidField
from patio_testing.operator.pod_builders import SIDECAR, profile

SIDE = {"name": "side", "image": "side"}
STRICT = (
    'Pod in version "v1" cannot be handled as a Pod: strict decoding error: '
    'unknown field "spec.containers[0].imagee", duplicate field "spec.volumes[1].name"'
)


def test_part_of_a_profile_has_the_same_path_in_the_trial_pod() -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    spec = validation.trial_pod(profile(initContainers=[SIDECAR], containers=[SIDE], volumes=volumes))["spec"]
    assert spec["initContainers"] == [SIDECAR]
    assert spec["containers"] == [SIDE, {"name": "engine", "image": "engine"}]
    assert spec["volumes"] == volumes


def test_own_container_of_a_trial_has_no_name_of_the_profile() -> None:
    taken = [{"name": name, "image": "x"} for name in ("engine", "engine-0", "engine-1")]
    names = [container["name"] for container in validation.trial_pod(profile(containers=taken))["spec"]["containers"]]
    assert len(set(names)) == len(names) == 4


def test_trial_pod_has_no_label_that_asks_for_a_profile() -> None:
    metadata = validation.trial_pod(profile())["metadata"]
    assert "patio.dev/profile" not in metadata["labels"]
    assert "name" not in metadata


@pytest.mark.parametrize(
    ("status", "message", "causes", "verdict"),
    [
        (
            422,
            "Pod is invalid",
            [("spec.containers[0].image", "Required value")],
            DryRunResult((InvalidField("spec.containers[0].image", "Required value"),)),
        ),
        (422, "odd", [], DryRunResult((InvalidField("spec", "odd"),))),
        (
            400,
            STRICT,
            [],
            DryRunResult(
                (
                    InvalidField("spec.containers[0].imagee", "unknown field"),
                    InvalidField("spec.volumes[1].name", "duplicate field"),
                )
            ),
        ),
        (
            400,
            'Pod in version "v1" cannot be handled as a Pod: quantities must match',
            [],
            DryRunResult((InvalidField("spec", "quantities must match"),)),
        ),
        (
            400,
            "admission webhook does not support dry run",
            [],
            DryRunResult(not_possible="admission webhook does not support dry run"),
        ),
        (403, 'pods "x" is forbidden: violates PodSecurity "restricted"', [], DryRunResult()),
        (403, 'pods "x" is forbidden: exceeded quota: q', [], DryRunResult()),
        (403, "pods is forbidden: cannot create", [], DryRunResult(not_possible="pods is forbidden: cannot create")),
        (0, "The API server cannot be reached", [], DryRunResult(not_possible="The API server cannot be reached")),
    ],
)
def test_answer_is_read(status: int, message: str, causes: list[tuple[str, str]], verdict: DryRunResult) -> None:
    assert validation.read_rejection(status, message, causes) == verdict


def test_value_without_a_path_is_found_by_trying_smaller_parts() -> None:
    limits = {"cpu": "1", "memory": "64Mo"}
    tried = profile(containers=[SIDE, SIDE | {"name": "b", "resources": {"limits": limits}}])
    path: validation.Path = ()
    while True:
        bad = [inner for inner, pod in validation.narrowed(tried, path) if "64Mo" in str(pod)]
        if not bad:
            break
        (path,) = bad
    assert validation.written(path) == "spec.containers[1].resources.limits.memory"
    inner = dict(validation.narrowed(tried, path[:-1]))[path]["spec"]
    assert inner["containers"] == [{"resources": {"limits": {"memory": "64Mo"}}}], "and nothing else of it"


def problems(of: ClusterEngineRuntimeProfile) -> list[str]:
    return [str(problem) for problem in (*validation.own_checks(of), *validation.injection_checks(of))]


def test_two_running_containers_with_one_port_are_a_problem() -> None:
    other = SIDE | {"ports": [{"containerPort": 9091}]}
    (problem,) = map(str, validation.own_checks(profile(initContainers=[SIDECAR], containers=[other])))
    assert problem.startswith(
        "spec.containers[0].ports[0].containerPort: Duplicate value: 9091: spec.initContainers[0]"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"initContainers": [SIDECAR, {"name": "first", "image": "x", "ports": [{"containerPort": 9091}]}]},
        {"initContainers": [SIDECAR], "containers": [SIDE | {"ports": [{"containerPort": 9091, "protocol": "UDP"}]}]},
    ],
)
def test_one_that_ends_before_or_another_protocol_is_none(other: dict[str, Any]) -> None:
    volumes = [{"name": "patio", "emptyDir": {}}]
    assert problems(profile(**other, volumes=volumes)) == []


@pytest.mark.parametrize("ports", ["x", [1], [{"containerPort": {"a": 1}}], [{}]])
def test_what_is_no_port_at_all_is_left_to_the_api_server(ports: Any) -> None:
    assert validation.own_checks(profile(containers=[SIDE | {"ports": ports}])) == ()


def test_containers_with_own_files_at_one_path_are_no_problem() -> None:
    both = [SIDE | {"name": name, "volumeMounts": [{"name": name, "mountPath": "/data"}]} for name in ("a", "b")]
    volumes = [{"name": name, "emptyDir": {}} for name in ("a", "b")]
    assert problems(profile(containers=both, volumes=volumes)) == []


@pytest.mark.parametrize(("value", "good"), [("1", True), ("20", True), ("0", False), ("all", False), ("", False)])
def test_how_many_are_rolled_at_once_is_a_number(value: str, good: bool) -> None:
    declared = ClusterEngineRuntimeProfile.model_validate(
        {"metadata": {"name": "p", "annotations": {"patio.dev/roll-at-once": value}}, "spec": {}}
    )
    assert (problems(declared) == []) is good

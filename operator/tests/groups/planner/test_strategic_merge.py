"""Strategic merge: against what kubectl itself made of the same patches, and the laws that any merge must keep."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from patio_operator.groups.planner.strategic_merge import MergeError, merge

RECORDED = yaml.safe_load((Path(__file__).parents[2] / "recorded" / "strategic_merge.yaml").read_text())


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["case"])
def test_patch_gives_what_kubectl_gives(case: dict[str, Any]) -> None:
    assert merge(RECORDED["template"], case["patch"]) == case["result"]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"spec": {"containers": [{"image": "x"}]}}, "patch.spec.containers: an element has no name"),
        ({"spec": {"$setElementOrder/containers": []}}, "the directive $setElementOrder/containers is not supported"),
        ({"metadata": {"$patch": "obliterate"}}, "patch.metadata: $patch must be"),
        ({"spec": {"containers": ["x"]}}, "an element is not an object"),
    ],
)
def test_patch_that_cannot_be_applied_is_an_error_with_its_place(patch: dict[str, Any], message: str) -> None:
    with pytest.raises(MergeError, match=message.replace("$", r"\$")):
        merge(RECORDED["template"], patch)


def test_patch_may_say_merge_explicitly() -> None:
    assert merge({"a": {"b": 1}}, {"a": {"$patch": "merge", "c": 2}}) == {"a": {"b": 1, "c": 2}}


names = st.sampled_from("abcde")
env = st.lists(st.builds(lambda name, value: {"name": name, "value": value}, names, names), max_size=4).map(
    lambda entries: list({entry["name"]: entry for entry in entries}.values())
)
containers = st.lists(
    st.fixed_dictionaries({"name": names}, optional={"image": names, "args": st.lists(names, max_size=2), "env": env}),
    max_size=4,
).map(lambda entries: list({entry["name"]: entry for entry in entries}.values()))
templates = st.fixed_dictionaries(
    {"spec": st.fixed_dictionaries({"containers": containers})},
    optional={"metadata": st.fixed_dictionaries({"labels": st.dictionaries(names, names, max_size=3)})},
)


@given(templates)
def test_empty_patch_changes_nothing(template: dict[str, Any]) -> None:
    assert merge(template, {}) == template


@given(templates, templates)
def test_applying_a_patch_twice_is_applying_it_once(template: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merge(template, patch)
    assert merge(once, patch) == once


@given(templates, templates)
def test_inputs_are_left_alone(template: dict[str, Any], patch: dict[str, Any]) -> None:
    before = copy.deepcopy((template, patch))
    merged = merge(template, patch)
    for container in merged["spec"]["containers"]:
        container["image"] = "changed"
    assert (template, patch) == before


@given(templates, templates)
def test_untouched_containers_stay_as_they_are_and_in_order(template: dict[str, Any], patch: dict[str, Any]) -> None:
    patched = {container["name"] for container in patch["spec"]["containers"]}
    merged = merge(template, patch)["spec"]["containers"]
    untouched = [container for container in template["spec"]["containers"] if container["name"] not in patched]
    assert [container for container in merged if container["name"] not in patched] == untouched


@given(templates, templates)
def test_every_container_of_either_side_is_there_once(template: dict[str, Any], patch: dict[str, Any]) -> None:
    merged = [container["name"] for container in merge(template, patch)["spec"]["containers"]]
    both = {container["name"] for side in (template, patch) for container in side["spec"]["containers"]}
    assert sorted(merged) == sorted(both)

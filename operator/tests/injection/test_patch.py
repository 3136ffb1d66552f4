"""The JSON patch makes the one of the other, and holds no more than what is different."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from patio_operator.injection import json_patch
from patio_testing.operator.pod_builders import injected, pod

values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "a/b", "c~d"]), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(["name", "x", "y/z", "~"]), values, max_size=4)


def applied(document: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902, as much of it as there is: add, replace, remove."""
    document = copy.deepcopy(document)
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        target = document
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target[parent]
        if isinstance(target, list):
            if operation["op"] == "add":
                target.insert(len(target) if last == "-" else int(last), operation["value"])
            else:
                target[int(last)] = operation["value"]
        elif operation["op"] == "remove":
            del target[last]
        else:
            assert (last in target) == (operation["op"] == "replace"), operation
            target[last] = operation["value"]
    return document


@given(objects, objects)
def test_applying_the_patch_gives_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert applied(before, json_patch(before, after)) == after


@given(objects)
def test_there_is_no_patch_between_equals(value: dict[str, Any]) -> None:
    assert json_patch(value, copy.deepcopy(value)) == []


def test_patch_only_adds_and_repeats_nothing_of_the_users_pod() -> None:
    before = pod(
        {
            "name": "vllm",
            "image": "i",
            "command": ["vllm", "serve", "m"],
            "env": [{"name": "TOKEN", "value": "secret"}],
        },
        initContainers=[{"name": "wait", "image": "w"}],
    )
    patch = json_patch(before, injected(before).pod)
    assert applied(before, patch) == injected(before).pod
    assert {operation["op"] for operation in patch} == {"add"}
    assert "secret" not in str(patch)

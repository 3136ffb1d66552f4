"""Labels that say which adapters a pod has."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from patio_api.labels import (
    ADAPTER_NAMES,
    adapter_label,
    adapter_labels,
    adapter_selector,
    adapters_shown,
    owners_of,
    owners_shown,
    serving_labels_patch,
)

LABEL = re.compile(r"lora\.patio\.dev/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
LONG = "a" * 64
NAMES = st.one_of(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,80}[A-Za-z0-9])?", fullmatch=True), st.text(min_size=1, max_size=5)
)


def after(metadata: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Metadata after a merge patch."""
    changed = {**metadata}
    for field, values in patch.get("metadata", {}).items():
        merged = {**(metadata.get(field) or {}), **values}
        changed[field] = {key: value for key, value in merged.items() if value is not None}
    return changed


def shown(metadata: dict[str, Any]) -> frozenset[str]:
    return adapters_shown(metadata.get("labels") or {}, metadata.get("annotations") or {})


def test_name_that_can_be_a_label_is_one() -> None:
    assert adapter_label("sql-expert.v2") == "lora.patio.dev/sql-expert.v2"
    assert adapter_selector("sql", "7-8") == "lora.patio.dev/sql=loaded,owner.lora.patio.dev/7-8=sql"


def test_long_name_is_cut_and_hashed_and_whole_in_its_annotation() -> None:
    key = adapter_label(LONG)
    assert key.startswith("lora.patio.dev/aaaa")
    assert key != adapter_label(LONG + "a")
    patch = serving_labels_patch({}, [LONG, "sql"])
    assert json.loads(patch["metadata"]["annotations"][ADAPTER_NAMES]) == {key: LONG}


@given(st.sets(NAMES, max_size=4), st.sets(NAMES, max_size=4), st.sampled_from(["u-1", "u-2"]))
def test_owners_are_shown_beside_names_and_go_with_them(before: set[str], names: set[str], uid: str) -> None:
    pod: dict[str, Any] = {"labels": {"app": "x", "owner.lora.patio.dev/old": "sql"}}
    for marks, owner in ((before, "u-1"), (names, uid)):
        owners = owners_of((name, f"{owner}-{number}") for number, name in enumerate(sorted(marks)))
        pod = after(pod, serving_labels_patch(pod, marks, owners))
        assert owners_shown(pod["labels"]) == owners
        assert shown(pod) == marks
        assert serving_labels_patch(pod, marks, owners) == {}
    assert all(
        adapter_labels(name, f"{uid}-{i}").items() <= pod["labels"].items() for i, name in enumerate(sorted(names))
    )
    assert pod["labels"]["app"] == "x"


@given(st.sets(NAMES, max_size=4), st.sets(NAMES, max_size=4))
def test_mark_is_read_back_and_marking_again_changes_nothing(before: set[str], names: set[str]) -> None:
    assert all(LABEL.fullmatch(adapter_label(name)) for name in names)
    pod: dict[str, Any] = {"labels": {"app": "x", "lora.patio.dev/own": "mine"}, "annotations": {"note": "y"}}
    pod = after(pod, serving_labels_patch(pod, before))
    assert shown(pod) == before
    pod = after(pod, serving_labels_patch(pod, names))
    assert shown(pod) == names
    assert serving_labels_patch(pod, names) == {}
    assert pod["labels"]["app"] == "x"
    assert pod["annotations"]["note"] == "y"


OTHERS = ["[]", "null", "1", '{"lora.patio.dev/a": 5}', '{"lora.patio.dev/a": "b"}']


@given(st.one_of(st.text(), st.sampled_from(OTHERS)))
def test_annotation_of_another_writer_is_ignored(text: str) -> None:
    assert adapters_shown({"lora.patio.dev/a": "loaded"}, {ADAPTER_NAMES: text}) == {"a"}
    assert (
        ADAPTER_NAMES in after({}, serving_labels_patch({"annotations": {ADAPTER_NAMES: text}}, [LONG]))["annotations"]
    )

"""JSON of others, at its limits and past them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from patio_operator.api import labels, rollout_annotations
from patio_operator.api.bounded_json import DEEPEST, LONGEST, read_json, read_object, size_of
from patio_operator.groups import round_trip
from patio_operator.groups.planner import restart_state
from patio_operator.injection.requested_profiles import runtimes_of
from patio_operator.injection.types import PodRejection
from patio_operator.pods.injected_pod import decode_pod
from patio_operator.pods.profile_use import MOST_PROFILES, profiles_in


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


BAD = ["[" * 900, "[" * 100_000, nested(900), nested(100_000), '{"a":' * 5000, "NaN", "9" * 5000, '"\\ud800"', "{", ""]


@pytest.mark.parametrize("text", [*BAD, None, 5, b"{}", '{"a": Infinity}', '{"\\udfff": 1}'])
def test_what_cannot_be_read_is_nothing(text: object) -> None:
    assert read_json(text) is None
    assert read_object(text) == {}


def test_depth_has_a_limit() -> None:
    assert read_json(nested(DEEPEST)) is not None
    assert read_json(nested(DEEPEST + 2)) is None


def test_length_has_a_limit() -> None:
    assert read_json('"' + "a" * (LONGEST - 2) + '"') is not None
    assert read_json('"' + "a" * (LONGEST - 1) + '"') is None
    assert read_json("[1]", limit=2) is None


def test_value_that_is_no_object_is_an_empty_one() -> None:
    assert read_object("[]") == {}
    assert read_object('{"a": "é"}') == {"a": "é"}


def test_size_counts_values_up_to_a_depth() -> None:
    assert size_of({"a": [1, 2], "b": "x"}) == 5
    assert size_of([[[]]], deepest=1) is None


def pod(**annotations: str) -> dict[str, Any]:
    metadata = {
        "namespace": "team",
        "name": "p",
        "uid": "u",
        "resourceVersion": "5",
        "labels": {labels.INJECTED: "true", "lora.patio.dev/x": "loaded"},
        "annotations": annotations,
    }
    return {"metadata": metadata, "spec": {}, "status": {}}


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("key", [labels.INJECTED, labels.ENGINE, labels.ADAPTER_NAMES, labels.ROLLED])
def test_annotations_never_keep_a_pod_out_of_the_cache(key: str, text: str) -> None:
    known = decode_pod(pod(**{key: text}))
    assert (known.pod.serving, known.engine_port, known.use) == ({"x"}, None, None)


@pytest.mark.parametrize("text", BAD)
def test_annotations_of_others_count_as_absent(text: str) -> None:
    assert rollout_annotations.of_template({"annotations": {labels.ROLLED: text}}) == {}
    assert rollout_annotations.of_role({"annotations": {labels.ROLLED_ROLES: text}}, "r") == {}
    assert rollout_annotations.group_annotation({"annotations": {labels.ROLLED_ROLES: text}}, "r", {"a": "b"})
    assert restart_state.read(text) == {}
    with pytest.raises(ValueError, match="not a list"):
        round_trip.read(text)
    assert isinstance(runtimes_of(pod(**{labels.ENGINE_RUNTIMES: text})), PodRejection)


@pytest.mark.parametrize(
    "text",
    [
        '{"r": {"0": {"restarts": 1e999}}}',
        '{"r": {"0": {"recreatedAt": 5}}}',
        '{"r": {"0": {"recreatedAt": "soon"}}}',
        '{"r": {"zero": {}}}',
        '{"r": []}',
    ],
)
def test_memories_of_odd_types_are_none(text: str) -> None:
    assert restart_state.read(text) == {}


def test_profiles_of_a_pod_are_few_and_have_names() -> None:
    def profiles_of(entries: Any) -> dict[str, str]:
        return profiles_in({"annotations": {labels.INJECTED: json.dumps(entries)}})

    assert profiles_of({"patio": "1", "Not A Name": "1", "gpu": 5, "x" * 300: "1", "long": "1" * 100}) == {"patio": "1"}
    assert len(profiles_of({f"p{n}": "1" for n in range(MOST_PROFILES)})) == MOST_PROFILES
    assert profiles_of({f"p{n}": "1" for n in range(MOST_PROFILES + 1)}) == {}
    assert profiles_of({f"p{n}": "1" for n in range(20_000)}) == {}

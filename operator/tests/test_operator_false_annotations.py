"""Annotations that others write, at their limits and past them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from patio_api import labels, rollout_annotations
from patio_operator.groups import round_trip
from patio_operator.groups.planner import restart_state
from patio_operator.injection.requested_profiles import runtimes_of
from patio_operator.injection.types import PodRejection
from patio_operator.pods.injected_pod import decode_pod
from patio_operator.pods.profile_use import MOST_PROFILES, profiles_in
from patio_testing.unreadable_json import UNREADABLE


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


@pytest.mark.parametrize("text", UNREADABLE)
@pytest.mark.parametrize("key", [labels.INJECTED, labels.ENGINE, labels.ADAPTER_NAMES, labels.ROLLED])
def test_annotations_never_keep_a_pod_out_of_the_cache(key: str, text: str) -> None:
    known = decode_pod(pod(**{key: text}))
    assert (known.pod.serving, known.engine_port, known.use) == ({"x"}, None, None)


@pytest.mark.parametrize("text", UNREADABLE)
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

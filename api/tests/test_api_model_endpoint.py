"""Any object of the API server becomes a ModelEndpoint with its defaults, or one clear error."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_api.crd import NOT_INSTALLED
from patio_api.model_endpoint import (
    DEEPEST,
    LARGEST,
    ModelEndpoint,
    StartPhase,
    UnreadableEndpoint,
    read,
)
from patio_gateway.snapshot import StartPhase as GatewayPhase

METADATA = {"name": "qwen", "namespace": "team"}
SMALLEST: dict[str, Any] = {"metadata": METADATA, "spec": {"model": {"uri": "hf://Qwen/Qwen3-8B"}}}


def good(**spec: Any) -> ModelEndpoint:
    found = read({"metadata": METADATA, "spec": SMALLEST["spec"] | spec})
    assert isinstance(found, ModelEndpoint), found
    return found


def wrong(body: dict[str, Any]) -> str:
    found = read(body)
    assert isinstance(found, UnreadableEndpoint), found
    return found.message


def test_smallest_endpoint_has_every_default() -> None:
    read_back = good()
    assert (read_back.model_name, read_back.names, read_back.key) == ("qwen", ("qwen",), "team/qwen")
    assert [runtime.profile_name for runtime in read_back.runtimes] == ["patio"]
    assert [(role.type, role.nodes_per_worker) for role in read_back.roles] == [("server", 1)]
    spec = read_back.spec
    assert (spec.workers.min, spec.workers.max, spec.workers.concurrency) == (0, 1, 32)
    assert (spec.queue.max, spec.queue.timeout, spec.routing.load_bound) == (1000, "5m", 1.25)
    assert (spec.autoscaling, spec.kind, spec.access.public) == ("patio", "sync", False)


def test_defaults_of_the_schema_are_those_of_the_reader() -> None:
    (definition,) = [each for each in NOT_INSTALLED if each.model is ModelEndpoint]
    schema = definition.to_api()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for part in ("workers", "queue", "routing", "access"):
        declared = schema["properties"][part]
        assert declared["default"] == {}
        fields = {name: field["default"] for name, field in declared["properties"].items() if "default" in field}
        assert fields.items() <= good().spec.to_api()[part].items()


def test_name_and_aliases_are_the_names_in_requests() -> None:
    read_back = good(model={"uri": "a/b", "name": "chat", "aliases": ["Qwen/Qwen3-8B", "chat"]})
    assert read_back.names == ("chat", "Qwen/Qwen3-8B")


def test_no_profile_and_none_given_are_told_apart() -> None:
    assert good(engineRuntimes=[]).runtimes == ()


@pytest.mark.parametrize(
    ("workers", "desired"),
    [
        ({"min": 1, "max": 4}, 1),
        ({"min": 1, "max": 4, "replicas": 3}, 3),
        ({"min": 1, "max": 4, "replicas": 0}, 1),
        ({"min": 0, "max": 4, "replicas": 9}, 4),
        ({"max": 0, "replicas": 9}, 0),
    ],
)
def test_wanted_workers_are_between_fewest_and_most(workers: dict[str, int], desired: int) -> None:
    assert good(workers=workers).desired_workers == desired


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"model": {}}, "spec.model.uri: Field required"),
        ({"model": {"uri": "a/b"}, "workers": {"max": -1}}, "spec.workers.max"),
        ({"model": {"uri": "a/b"}, "queue": {"timeout": "soon"}}, "spec.queue.timeout"),
        ({"model": {"uri": "a/b"}, "engine": "other"}, "spec.engine"),
        ({"model": {"uri": "a/b", "name": "../x"}}, "spec.model.name"),
        ({"model": {"uri": "a/b"}, "roles": []}, "spec.roles"),
        (None, "spec: Input should be"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_field(spec: Any, words: str) -> None:
    assert words in wrong({"metadata": METADATA, "spec": spec})


def test_object_at_the_limits_is_read_and_past_them_not() -> None:
    def deep(levels: int) -> dict[str, Any]:
        value: Any = "x"
        for _ in range(levels):
            value = {"a": value}
        return {"metadata": METADATA, "spec": SMALLEST["spec"] | {"more": value}}

    assert isinstance(read(deep(DEEPEST - 2)), ModelEndpoint)
    assert "nested too deeply" in wrong(deep(DEEPEST))
    others = 4  # the outer object, spec, model and its uri, and the list itself
    fits = {"metadata": METADATA, "spec": SMALLEST["spec"] | {"more": ["x"] * (LARGEST - others - 1)}}
    assert isinstance(read(fits), ModelEndpoint)
    fits["spec"]["more"] += ["x"]
    assert f"more than {LARGEST}" in wrong(fits)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["model", "engine", "engineRuntimes", "cache", "source", "roles", "router", "adapters", "workers", "queue", "async"]
)


@given(st.dictionaries(FIELDS, JSON), JSON)
def test_any_object_is_read_or_refused_in_a_sentence(spec: Any, status: Any) -> None:
    found = read({"metadata": METADATA, "spec": SMALLEST["spec"] | spec, "status": status})
    assert isinstance(found, ModelEndpoint) or found.message


def test_phases_of_a_start_are_those_that_the_gateway_tells() -> None:
    assert set(get_args(StartPhase)) == {phase.value for phase in GatewayPhase}

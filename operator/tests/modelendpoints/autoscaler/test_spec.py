"""What a user may say about workers."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_operator.modelendpoints.autoscaler.spec import (
    ASYNC_WINDOW,
    MOST_CONCURRENCY,
    MOST_WORKERS,
    WINDOW,
    ScalingSpec,
    SpecError,
    read_spec,
)

WORKERS = {"min": 0, "max": 8, "concurrency": 16, "scaleToZeroAfter": "1h30m", "loadingGrace": "45s"}
EXPECTED = ScalingSpec(0, 8, 16, timedelta(minutes=90), timedelta(seconds=45))


@pytest.mark.parametrize(
    "value",
    [
        {"workers": WORKERS},
        {"workers": WORKERS, "kind": "sync", "model": {"name": "qwen"}},
        {"kind": "ModelEndpoint", "spec": {"workers": WORKERS}},
        {"kind": "ModelEndpoint", "spec": {"workers": {**WORKERS, "replicas": 3}}},
    ],
)
def test_endpoint_its_spec_or_its_workers_are_read(value: dict[str, Any]) -> None:
    assert read_spec(value) == EXPECTED


def test_missing_fields_have_defaults() -> None:
    assert read_spec({}) == ScalingSpec()
    assert read_spec({"workers": {"min": 3}}).max_workers == 3


def test_queued_work_has_a_longer_window() -> None:
    assert (read_spec({}).window, read_spec({}).queued) == (WINDOW, False)
    spec = read_spec({"spec": {"kind": "async"}})
    assert (spec.window, spec.queued) == (ASYNC_WINDOW, True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("500ms", 0.5), ("90s", 90), ("10m", 600), ("1h30m5s", 5405), ("168h", 604800)]
)
def test_durations_are_those_of_kubernetes(text: str, seconds: float) -> None:
    assert read_spec({"workers": {"scaleToZeroAfter": text}}).scale_to_zero_after.total_seconds() == seconds


def test_bounds_themselves_are_allowed() -> None:
    spec = read_spec({"workers": {"min": MOST_WORKERS, "max": MOST_WORKERS, "concurrency": MOST_CONCURRENCY}})
    assert (spec.min_workers, spec.concurrency) == (MOST_WORKERS, MOST_CONCURRENCY)


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ({"min": -1}, "workers.min is -1"),
        ({"min": 2, "max": 1}, "they must be 0 <= min <= max"),
        ({"max": MOST_WORKERS + 1}, f"max <= {MOST_WORKERS}"),
        ({"max": "8"}, "workers.max must be an integer"),
        ({"max": True}, "workers.max must be an integer"),
        ({"max": None}, "workers.max must be an integer"),
        ({"concurrency": 0}, "must be from 1 to"),
        ({"concurrency": MOST_CONCURRENCY + 1}, "must be from 1 to"),
        ({"scaleToZeroAfter": 600}, "must be a duration such as"),
        ({"scaleToZeroAfter": "-5m"}, "must be a duration such as"),
        ({"scaleToZeroAfter": "5 minutes"}, "must be a duration such as"),
        ({"scaleToZeroAfter": "1h" * 1000}, "must be a duration such as"),
        ({"loadingGrace": "169h"}, "workers.loadingGrace must be from 0s to 168h"),
        ({"maximum": 8}, "unknown fields: maximum"),
        ([], "`workers` must be an object"),
    ],
)
def test_wrong_field_is_named(workers: object, message: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_spec({"workers": workers})
    assert message in str(raised.value)


@pytest.mark.parametrize("value", [None, [], "workers", 5, {"spec": None}, {"kind": "batch"}, {"kind": ["sync"]}])
def test_what_is_no_spec_is_rejected(value: object) -> None:
    with pytest.raises(SpecError):
        read_spec(value)


@pytest.mark.parametrize("window", [timedelta(0), timedelta(days=8)])
def test_window_has_bounds(window: timedelta) -> None:
    with pytest.raises(SpecError, match="the window must be from 1s"):
        ScalingSpec(window=window)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WORKERS, "workers", "kind"]), inner),
    max_leaves=8,
)


@given(json_values | st.dictionaries(st.sampled_from(["workers", "spec", "kind"]), json_values))
def test_whatever_is_read_is_a_spec_or_an_error(value: object) -> None:
    with contextlib.suppress(SpecError):
        assert isinstance(read_spec(value), ScalingSpec)

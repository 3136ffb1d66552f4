"""What is kept of the past, and carried over a change of leader."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_operator.modelendpoints.autoscaler.memory import (
    MOST_PEAKS,
    Peak,
    ScalingMemory,
    advanced,
    from_status,
    to_status,
    worth_writing,
)

from .builders import START, at

WINDOW = timedelta(minutes=5)
BUCKET = 30


def after(samples: list[tuple[float, int]]) -> ScalingMemory:
    """Return the memory after samples of seconds and demand."""
    kept: ScalingMemory | None = None
    for second, demand in samples:
        kept = advanced(kept, at(second), demand, WINDOW, complete=True, activity=None)
    assert kept is not None
    return kept


@given(st.lists(st.tuples(st.integers(1, 25), st.integers(0, 50)), min_size=1, max_size=120))
def test_peak_is_the_maximum_of_the_window_or_little_more(steps: list[tuple[int, int]]) -> None:
    kept: ScalingMemory | None = None
    second = 0
    samples: deque[tuple[int, int]] = deque()
    for pause, demand in steps:
        second += pause
        samples.append((second, demand))
        kept = advanced(kept, at(second), demand, WINDOW, complete=True, activity=None)
        exact = max(amount for moment, amount in samples if moment >= second - 300)
        longer = max(amount for moment, amount in samples if moment >= second - 300 - BUCKET)
        assert exact <= kept.peak <= longer
        demands = [peak.demand for peak in kept.peaks]
        assert demands == sorted(set(demands), reverse=True)
        assert len(kept.peaks) <= MOST_PEAKS


def test_quiet_endpoint_has_no_peaks() -> None:
    assert after([(second, 0) for second in range(0, 600, 10)]).peaks == ()


def test_incomplete_step_begins_the_window_again() -> None:
    kept = after([(second, 5) for second in range(0, 400, 10)])
    assert kept.covers(WINDOW)
    missing = advanced(kept, at(400), 5, WINDOW, complete=False, activity=None)
    assert (missing.covers(WINDOW), missing.last_activity, missing.peak) == (False, at(400), 5)


def test_activity_only_moves_forward_and_not_beyond_now() -> None:
    kept = advanced(None, at(0), 0, WINDOW, complete=True, activity=None)
    kept = advanced(kept, at(10), 0, WINDOW, complete=True, activity=at(-50))
    assert kept.last_activity == at(0)
    assert advanced(kept, at(20), 0, WINDOW, complete=True, activity=at(99)).last_activity == at(20)


def test_more_peaks_than_allowed_are_merged_to_hold_longer() -> None:
    start = int(START.timestamp())
    peaks = tuple(Peak(start + index, 100 - index) for index in range(MOST_PEAKS))
    kept = advanced(ScalingMemory(at(0), at(-900), at(-900), peaks), at(20), 1, WINDOW, complete=True, activity=None)
    assert len(kept.peaks) == MOST_PEAKS
    assert kept.peaks[0] == Peak(start + 1, 100)


def test_peak_from_the_future_ends_with_the_bucket_of_now() -> None:
    future = ScalingMemory(at(0), at(-900), at(-900), (Peak(int(START.timestamp()) + 10**6, 9),))
    kept = advanced(future, at(1), 0, WINDOW, complete=True, activity=None)
    assert kept.peaks == (Peak(int(START.timestamp()) + BUCKET, 9),)


@given(st.lists(st.tuples(st.floats(0.1, 25), st.integers(0, 10**9)), min_size=1, max_size=60))
def test_status_gives_the_same_memory_back(steps: list[tuple[float, int]]) -> None:
    second, samples = 0.0, []
    for pause, demand in steps:
        second += pause
        samples.append((second, demand))
    kept = after(samples)
    assert from_status(to_status(kept)) == kept


GOOD: dict[str, Any] = {
    "at": "2026-11-27T09:00:00+00:00",
    "completeSince": "2026-11-27T09:00:00Z",
    "lastActivity": "2026-11-27T08:00:00+00:00",
    "peaks": [{"end": 20, "demand": 5}, {"end": 30, "demand": 4}],
}


def test_status_of_a_cluster_is_read() -> None:
    assert from_status(GOOD) == ScalingMemory(at(0), at(0), at(-3600), (Peak(20, 5), Peak(30, 4)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        {},
        GOOD | {"at": None},
        GOOD | {"at": "yesterday"},
        GOOD | {"at": "2026-11-27T09:00:00"},
        GOOD | {"at": "9" * 10**6},
        GOOD | {"lastActivity": "0001-01-01T00:00:00+23:00"},
        GOOD | {"peaks": None},
        GOOD | {"peaks": [1]},
        GOOD | {"peaks": [{"end": True, "demand": 5}]},
        GOOD | {"peaks": [{"end": 20, "demand": 0}]},
        GOOD | {"peaks": [{"end": 20, "demand": 10**9 + 1}]},
        GOOD | {"peaks": [{"end": 10**400, "demand": 1}]},
        GOOD | {"peaks": [{"end": 30, "demand": 5}, {"end": 20, "demand": 4}]},
        GOOD | {"peaks": [{"end": 20, "demand": 4}, {"end": 30, "demand": 5}]},
        GOOD | {"peaks": [{"end": index, "demand": 99 - index} for index in range(MOST_PEAKS + 1)]},
    ],
)
def test_status_that_is_not_ours_is_forgotten(value: object) -> None:
    assert from_status(value) is None


def test_only_other_peaks_are_worth_a_write() -> None:
    kept = after([(0, 5)])
    assert worth_writing(None, kept)
    assert not worth_writing(kept, replace(kept, at=at(9), last_activity=at(9)))
    assert worth_writing(kept, replace(kept, peaks=()))

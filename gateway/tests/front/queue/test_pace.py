"""How many requests go on at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_gateway.front.queue.pace import REFILL_SECONDS, Pace, moved, next_token, spent, started


def test_first_workers_take_as_many_as_they_can() -> None:
    assert started(32, 5.0).tokens == 32


def test_empty_bucket_is_full_again_after_its_time() -> None:
    assert moved(Pace(32, 0.0, 0.0), 32, REFILL_SECONDS).tokens == 32
    assert moved(Pace(32, 0.0, 0.0), 32, REFILL_SECONDS / 2).tokens == 16


def test_new_worker_brings_its_own_tokens_at_once() -> None:
    assert moved(Pace(32, 0.0, 0.0), 64, 0.0).tokens == 32


def test_lost_worker_takes_its_tokens_with_it() -> None:
    assert moved(Pace(64, 64.0, 0.0), 32, 0.0).tokens == 32


@given(st.integers(1, 10_000), st.floats(0, 0.999), st.floats(0, 1e6))
def test_next_token_is_whole_at_its_time(capacity: int, tokens: float, at: float) -> None:
    pace = Pace(capacity, tokens, at)
    assert moved(pace, capacity, next_token(pace)).tokens >= 1.0 - 1e-6 * capacity


@given(st.integers(1, 100), st.lists(st.floats(0, 0.1), max_size=200))
def test_no_more_go_on_than_capacity_and_time_give(capacity: int, steps: list[float]) -> None:
    now, count = 0.0, 0
    pace = started(capacity, now)
    for step in steps:
        now += step
        pace = moved(pace, capacity, now)
        while pace.tokens >= 1.0:
            pace = spent(pace)
            count += 1
    assert count <= capacity + capacity * now / REFILL_SECONDS + 1e-3


def test_full_bucket_has_a_token_now() -> None:
    assert next_token(started(1, 7.0)) == pytest.approx(7.0)

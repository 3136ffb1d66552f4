"""Backoff: pauses double, they end, no number of failures is too many, and jitter keeps callers apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from patio_protocol.backoff import exponential, with_jitter


@given(st.integers(1, 10**9))
def test_pause_never_shrinks_with_failures_and_stays_bounded(failures: int) -> None:
    assert 0.5 <= exponential(0.5, 30.0, failures) <= exponential(0.5, 30.0, failures + 1) <= 30.0


def test_pauses_double() -> None:
    assert [exponential(0.5, 30.0, failures) for failures in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_no_number_of_failures_is_too_many() -> None:
    assert [exponential(0.8, 30.0, failures) for failures in (1, 2, 3, 100_000)] == [0.8, 1.6, 3.2, 30.0]


def test_what_failed_together_does_not_come_back_together() -> None:
    assert with_jitter(0.8, 0.0) == 0.8 < with_jitter(0.8, 0.5) < with_jitter(0.8, 1.0) <= 1.3 * 0.8

"""Pauses between attempts: they grow, they end growing, and no number of failures is too many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from patio.adapters.progress import LONGEST_PAUSE, SLOW_RETRY, Fault, Progress, after_fault, after_loss
from patio.engine.base import FaultReason
from patio.pauses import growing


@given(st.integers(1, 10**9))
def test_a_pause_never_shrinks_with_failures_and_stays_within_its_bound(failures: int) -> None:
    assert 0.5 <= growing(0.5, 30.0, failures) <= growing(0.5, 30.0, failures + 1) <= 30.0


def test_pauses_double() -> None:
    assert [growing(0.5, 30.0, failures) for failures in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_an_engine_that_fails_for_days_is_still_asked_twice_a_minute() -> None:
    fault = Fault(FaultReason.ENGINE_FAULT, "busy", permanent=False)
    assert after_fault(Progress(failures=100_000), fault, 0.0, 0.0).not_before == LONGEST_PAUSE
    assert after_loss(Progress(losses=100_000), 0.0, 0.0).not_before == SLOW_RETRY

"""Pauses between attempts on an adapter."""

from __future__ import annotations

from patio.adapters.progress import LONGEST_PAUSE, SLOW_RETRY, Fault, Progress, after_fault, after_loss
from patio.engine.base import FaultReason


def test_an_engine_that_fails_for_days_is_still_asked_twice_a_minute() -> None:
    fault = Fault(FaultReason.ENGINE_FAULT, "busy", permanent=False)
    assert after_fault(Progress(failures=100_000), fault, 0.0, 0.0).not_before == LONGEST_PAUSE
    assert after_loss(Progress(losses=100_000), 0.0, 0.0).not_before == SLOW_RETRY

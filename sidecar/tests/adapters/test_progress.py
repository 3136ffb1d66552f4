"""Pauses between attempts on an adapter."""

from __future__ import annotations

from patio.adapters.progress import LONGEST_PAUSE, SLOW_RETRY, Progress, after_loss, after_rejection
from patio.engine.base import EngineReason
from patio.rejection import Rejection


def test_engine_failing_for_days_is_polled_twice_a_minute() -> None:
    fault = Rejection(EngineReason.ENGINE_ERROR, "busy", retryable=True)
    assert after_rejection(Progress(failures=100_000), fault, 0.0, 0.0).not_before == LONGEST_PAUSE
    assert after_loss(Progress(losses=100_000), 0.0, 0.0).not_before == SLOW_RETRY

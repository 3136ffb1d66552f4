"""How late the event loop is."""

from __future__ import annotations

import asyncio
import time

import pytest

from patio_kube.runtime import loop_lag
from patio_testing.operator.waiting import until


async def test_what_holds_the_loop_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "EVERY_SECONDS", 0.01)
    lags: list[float] = []
    task = asyncio.create_task(loop_lag.measure(lags.append))
    await until("it looks", lambda: lags)
    lags.clear()
    held = time.perf_counter() + 0.2
    while time.perf_counter() < held:
        pass
    await until("it looks again", lambda: lags)
    task.cancel()
    assert lags[0] >= 0.15
    assert all(lag >= 0 for lag in lags)

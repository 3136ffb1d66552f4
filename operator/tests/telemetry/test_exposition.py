"""Pages that callers share: one is written at a time, and few are sent at a time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from patio_operator.telemetry.exposition import MOST_PAGES, Pages
from patio_operator.telemetry.metrics import Metrics


async def test_callers_who_ask_together_share_a_page() -> None:
    pages = Pages(Metrics())
    async with AsyncExitStack() as sending:
        first, second = await asyncio.gather(*(sending.enter_async_context(pages.lend()) for _ in range(2)))
    assert first is second


async def test_caller_who_asks_later_gets_the_metrics_as_they_are() -> None:
    metrics = Metrics()
    pages = Pages(metrics)
    async with pages.lend() as before:
        metrics.leads(True)
        async with pages.lend() as after:
            pass
    assert b"patio_operator_leader 0.0\n" in before
    assert b"patio_operator_leader 1.0\n" in after


async def test_slow_readers_hold_few_pages() -> None:
    pages = Pages(Metrics())
    async with AsyncExitStack() as sending:
        lent = [await sending.enter_async_context(pages.lend()) for _ in range(MOST_PAGES + 3)]
        assert len({id(text) for text in lent}) == MOST_PAGES
        assert lent[MOST_PAGES:] == [lent[MOST_PAGES - 1]] * 3
    async with pages.lend() as fresh:
        assert all(fresh is not text for text in lent)


async def test_caller_who_leaves_does_not_cancel_the_page() -> None:
    pages = Pages(Metrics())

    async def read() -> bytes:
        async with pages.lend() as text:
            return text

    leaving, staying = asyncio.create_task(read()), asyncio.create_task(read())
    await asyncio.sleep(0)
    leaving.cancel()
    assert b"patio_operator_leader" in await staying

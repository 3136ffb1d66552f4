"""The page of all metrics, written in slices: a large fleet's takes tens of milliseconds and megabytes.

`health` sends it. Everyone who reaches the port can ask, and need not read: those who ask while a page is written share
it, and the pages that are being sent are few.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from patio_kube.runtime.incremental import Incremental
from patio_kube.runtime.time_slices import in_slices
from patio_operator.telemetry.metrics import Metrics

MOST_PAGES = 4
"""Pages that are being sent at a time. While there are so many, callers get the last one, which may be as old as the
time that a caller has to read it."""


@dataclass(frozen=True, eq=False, slots=True)
class _Page:
    text: bytes


class Pages:
    """Lends pages to those who send them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._writing: asyncio.Task[_Page] | None = None
        self._lent: Counter[_Page] = Counter()
        """How many send each page, the oldest page first."""

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[bytes]:
        """Yield all metrics as they are now, or were when the last page was written if too many pages are lent."""
        lent = await self._page()
        self._lent[lent] += 1
        try:
            yield lent.text
        finally:
            self._lent[lent] -= 1
            if not self._lent[lent]:
                del self._lent[lent]

    async def _page(self) -> _Page:
        if len(self._lent) >= MOST_PAGES:
            return next(reversed(self._lent))
        if self._writing is None:
            self._writing = asyncio.create_task(self._written(), name="metrics page")
        # A caller that leaves does not cancel the others' page.
        return await asyncio.shield(self._writing)

    async def _written(self) -> _Page:
        try:
            return _Page(await page(self._metrics))
        finally:
            self._writing = None


async def page(metrics: Metrics) -> bytes:
    """Return all metrics as Prometheus reads them (text format 0.0.4)."""
    text, _ = await in_slices(_parts(metrics))
    return text


def _parts(metrics: Metrics) -> Incremental[bytes]:
    parts: list[bytes] = []
    if metrics.acting:
        for gauges in metrics.objects:
            yield from gauges.settle()
    for family in metrics.registry.collect():
        parts.append(generate_latest(_Only(family)))
        yield
    for gauges in metrics.objects:
        parts.append((yield from gauges.text(shown=metrics.acting)).encode())
        yield
    return b"".join(parts)


class _Only(Collector):
    """One family: the library writes whole collectors."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        """Yield the family."""
        return [self._family]

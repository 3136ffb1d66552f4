"""Runs a long computation some milliseconds at a time, so that the event loop is never held for long.

The Lease, admissions and long-polls share the loop with the planner. A computation that yields (`placement.steps`) is
stopped after `SLICE_SECONDS`, and everybody else has a turn. In a thread it would be in their way no less: each of
their system calls would wait for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from typing import TypeVar

from patio_operator.placement.steps import Steps

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.005
SMALL = 10_000
"""Objects below which a full collection takes no time worth mentioning."""
GROWN = 1.5
AT_MOST_EVERY = 3600.0
"""Seconds after which objects are set aside again though there are not more."""

T = TypeVar("T")


async def in_slices(steps: Steps[T]) -> tuple[T, float]:
    """Run a computation; return its result, and the seconds that it took without the turns of others."""
    spent = 0.0
    while True:
        began = time.perf_counter()
        until = began + SLICE_SECONDS
        try:
            while time.perf_counter() < until:
                next(steps)
        except StopIteration as end:
            result: T = end.value
            return result, spent + time.perf_counter() - began
        spent += time.perf_counter() - began
        await asyncio.sleep(0)


class Heap:
    """Keeps full garbage collections short.

    A collection stops the loop for as long as there are objects to look at: 0.1 s and more with a hundred thousand
    placements. Nearly all are caches, which stay and are in no cycles: they are set aside (`gc.freeze`) when there are
    many more than last time, so that a collection looks at what came since. They are freed as ever once nobody has
    them.
    """

    def __init__(self) -> None:
        self._frozen = 0
        self._when = time.monotonic()

    def holds(self, objects: int) -> None:
        """Say how many objects there are that stay, about."""
        now = time.monotonic()
        grown = objects > GROWN * self._frozen
        if objects < SMALL or not (grown or now - self._when > AT_MOST_EVERY):
            return
        gc.freeze()
        self._frozen, self._when = objects, now
        log.debug("%d objects set aside", objects)

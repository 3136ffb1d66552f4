"""Runs a long computation some milliseconds at a time, so that the event loop is never held for long.

The Lease, admissions and long-polls share the loop with the planner. A computation that yields (`incremental`) is
stopped after `SLICE_SECONDS`, and everybody else has a turn. In a thread it would be in their way no less: each of
their system calls would wait for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from patio_kube.runtime.incremental import Incremental

SLICE_SECONDS = 0.005
SMALL = 10_000
"""Objects below which a full collection takes no time worth mentioning."""
GROWN = 1.5
AT_MOST_EVERY = 3600.0
"""Seconds after which objects are set aside again though there are not more."""
LONGEST_QUIET = 10.0
"""Seconds for which nothing is collected, at most: a pass may wait long for the API server."""

T = TypeVar("T")


async def in_slices(steps: Incremental[T]) -> tuple[T, float]:
    """Run a computation; return its result, and the seconds that it took without the turns of others."""
    spent = 0.0
    while True:
        began = time.perf_counter()
        until = began + SLICE_SECONDS
        try:
            next(steps)
            while time.perf_counter() < until:
                next(steps)
        except StopIteration as end:
            result: T = end.value
            return result, spent + time.perf_counter() - began
        spent += time.perf_counter() - began
        await asyncio.sleep(0)


class Heap:
    """Keeps garbage collections short.

    A full collection stops the loop for as long as there are objects to look at: 0.1 s and more with a hundred thousand
    placements. Nearly all are caches, which stay and are in no cycles: they are set aside (`gc.freeze`) when there are
    many more than last time, and are freed as ever when nothing refers to them. What a pass makes of them is gone when
    it ends: meanwhile nothing is collected.
    """

    def __init__(self) -> None:
        self._frozen = 0
        self._when = time.monotonic()
        self._quiet = 0

    @contextmanager
    def quiet(self, objects: int) -> Iterator[None]:
        """Have no garbage collected meanwhile, for `LONGEST_QUIET` at most, if there are many objects.

        Args:
            objects: how many there are that stay, about.

        """
        if objects < SMALL:
            yield
            return
        now = time.monotonic()
        if objects > GROWN * self._frozen or now - self._when > AT_MOST_EVERY:
            gc.freeze()
            self._frozen, self._when = objects, now
        self._quiet += 1
        gc.disable()
        timer = asyncio.get_running_loop().call_later(LONGEST_QUIET, gc.enable)
        try:
            yield
        finally:
            timer.cancel()
            self._quiet -= 1
            if not self._quiet:
                gc.enable()

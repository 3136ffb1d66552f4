"""Work in the background, one task for a key: with a bound over all and for one, and growing pauses after failures.

A planner says again and again what is to be done until it sees it done. `Jobs` makes that harmless: what is under way,
or waits for its next try, is not begun a second time. Nobody waits for a job, so one peer that is slow holds up nobody
else. Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial

from patio_operator.pauses import pause_after

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
MOST = 10_000
"""Jobs that are under way or wait for a place. What is not begun is given again by the pass that follows when one ends.
"""
FORGET_SECONDS = 300.0
"""A key that nobody tried again for so long is forgotten, with its failures."""

Work = Callable[[], Awaitable[bool]]
"""Does something; returns whether that worked. What it raises is a fault of the program, and counts as a failure."""


@dataclass
class _Failed:
    times: int
    until: float


class Jobs:
    """Runs work in the background. Close it at the end."""

    def __init__(
        self, name: str, at_once: int, for_one: int, rng: random.Random, on_end: Callable[[str], None]
    ) -> None:
        """Take the bounds, over all jobs and over those of one group.

        `on_end` is called with a job's namespace when it is over, or after its pause when it failed.
        """
        self._name = name
        self._slots = asyncio.Semaphore(at_once)
        self._for_one = for_one
        self._rng = rng
        self._on_end = on_end
        self._tasks: dict[Hashable, asyncio.Task[bool]] = {}
        self._groups: dict[str, asyncio.Semaphore] = {}
        self._members: dict[str, int] = {}
        self._failed: dict[Hashable, _Failed] = {}
        self._timers: set[asyncio.TimerHandle] = set()

    def start(self, namespace: str, group: str, key: Hashable, work: Work) -> bool:
        """Begin, unless this key is at work or waits for its next try, or too many are; return whether it was begun."""
        failed = self._failed.get(key)
        if (
            len(self._tasks) >= MOST
            or key in self._tasks
            or (failed is not None and failed.until > asyncio.get_running_loop().time())
        ):
            return False
        self._members[group] = self._members.get(group, 0) + 1
        task = asyncio.create_task(self._run(group, key, work), name=f"{self._name} {key}")
        self._tasks[key] = task
        task.add_done_callback(partial(self._over, namespace, group, key))
        return True

    async def close(self) -> None:
        """End everything and forget it."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._failed.clear()

    async def _run(self, group: str, key: Hashable, work: Work) -> bool:
        # First the group's: jobs of one slow peer wait for each other, not in the places of others.
        async with self._groups.setdefault(group, asyncio.Semaphore(self._for_one)), self._slots:
            try:
                return await work()
            except Exception as fault:  # noqa: BLE001 - the outermost place of a task that nobody waits for
                log.error("%s %s broke: %s: %s", self._name, key, type(fault).__name__, fault)
                return False

    def _again(self, namespace: str, key: Hashable) -> None:
        loop = asyncio.get_running_loop()
        times = self._failed[key].times + 1 if key in self._failed else 1
        pause = pause_after(times, self._rng.random(), FIRST_PAUSE, LONGEST_PAUSE)
        now = loop.time()
        self._failed = {key: one for key, one in self._failed.items() if one.until > now - FORGET_SECONDS}
        self._failed[key] = _Failed(times, now + pause)

        def wake() -> None:
            self._timers.discard(timer)
            self._on_end(namespace)

        timer = loop.call_later(pause, wake)
        self._timers.add(timer)

    def _over(self, namespace: str, group: str, key: Hashable, task: asyncio.Task[bool]) -> None:
        del self._tasks[key]
        self._members[group] -= 1
        if not self._members[group]:
            del self._members[group]
            self._groups.pop(group, None)
        if task.cancelled():
            return
        if task.result():
            self._failed.pop(key, None)
            self._on_end(namespace)
        else:
            self._again(namespace, key)

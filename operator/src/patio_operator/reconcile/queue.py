"""A work queue of keys: woken by anything, worked off one at a time for each key.

Waking a key that waits is nothing; waking one at work makes it work once more afterwards. A key whose work fails
comes back after a growing pause. This is what controller-runtime calls a rate-limited queue; kopf has none that is
shared by several kinds of objects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.05
"""A burst of events is worked off once: a woken key waits this long."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0

Key = tuple[str, ...]


def pause_after(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row, from 1 on, however many they are."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 32), LONGEST_PAUSE)


class WorkQueue:
    """Runs `work(key)` for every key that is woken; `work` may return seconds after which to wake it again."""

    def __init__(self, name: str, work: Callable[[Key], Awaitable[float | None]]) -> None:
        self._name = name
        self._work = work
        self._wakes: dict[Key, asyncio.Event] = {}
        self._group: asyncio.TaskGroup | None = None

    def wake(self, key: Key) -> None:
        """Have a key worked on soon."""
        event = self._wakes.get(key)
        if event is None:
            event = self._wakes[key] = asyncio.Event()
            if self._group is not None:
                self._start(key, event)
        event.set()

    def wake_all(self) -> None:
        """Have every key worked on that was ever woken."""
        for event in self._wakes.values():
            event.set()

    async def run(self) -> None:
        """Work until cancelled, beginning with every key that was ever woken; may be run again after that.

        A replica that does not lead collects keys; what it did not finish when it last led is among them.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            for key, event in self._wakes.items():
                event.set()
                self._start(key, event)
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None  # a group that ends takes no more tasks

    def _start(self, key: Key, event: asyncio.Event) -> None:
        assert self._group is not None
        self._group.create_task(self._keep(key, event), name=f"{self._name} {'/'.join(key)}")

    async def _keep(self, key: Key, event: asyncio.Event) -> None:
        failures = 0
        again_in: float | None = None
        while True:
            try:
                async with asyncio.timeout(again_in):
                    await event.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(SETTLE_SECONDS)
            event.clear()
            try:
                again_in = await self._work(key)
                failures = 0
            except Exception as error:
                failures += 1
                again_in = pause_after(failures)
                log.warning(
                    "%s %s failed, again in %.1f s: %s: %s",
                    self._name,
                    "/".join(key),
                    again_in,
                    type(error).__name__,
                    error,
                    exc_info=log.isEnabledFor(logging.DEBUG),
                )

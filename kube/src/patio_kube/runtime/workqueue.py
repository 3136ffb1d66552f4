"""A work queue of keys: added by any event, worked off by a few workers, each key by one at a time.

Adding a key that waits changes nothing; adding one at work makes another pass follow. A key whose work fails comes back
after a growing pause. Nothing is kept of a key that has nothing more to do. Keys of the same first part (a namespace)
take turns with those of others, so that none waits for all that one of them has. This is what controller-runtime calls
a rate-limited queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from patio_protocol.backoff import exponential, with_jitter

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.8
LONGEST_PAUSE = 30.0
"""Seconds before a key whose work failed is worked on again."""
SETTLE_SECONDS = 0.05
"""A burst of events is worked off once: a woken key waits this long."""
WORKERS = 8
"""Keys that are worked on at once."""
RESYNC_SECONDS = 600.0
"""In which every key that there is gets a pass, whether or not it was woken: the net under every event."""
WORK_SECONDS = 600.0
"""After which work is given up, as failed: it would keep its worker from all others."""
LONGEST_ERROR = 1_000
"""Characters of an error in the log: it may repeat what a user wrote."""

Key = tuple[str, ...]
Work = Callable[[Key], Awaitable[float | None]]


class WorkQueue:
    """Keys that wait for a pass; `run` makes the passes."""

    def __init__(
        self,
        name: str,
        existing: Callable[[], Iterable[Key]] | None = None,
        *,
        workers: int = WORKERS,
        rng: random.Random | None = None,
    ) -> None:
        """Take the bounds.

        Args:
            name: for logs.
            existing: returns the keys of all objects that there are. They are worked on when the queue begins to run,
                and again now and then; a queue that does not run keeps none. Without it, it keeps those that are woken.
            workers: how many keys are worked on at once.
            rng: spreads pauses.

        """
        self._name = name
        self._existing = existing
        self._workers = workers
        self._rng = rng or random.Random()  # noqa: S311 - jitter only
        self._woken: dict[Key, None] = {}
        """Added while no worker runs, or not ready yet."""
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._ready: dict[str, deque[Key]] = {}
        self._queued: set[Key] = set()
        self._at_work: set[Key] = set()
        self._once_more: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._due_since: dict[Key, float] = {}
        """Since when a key has been due for a pass that succeeds, the longest first (seconds of the event loop)."""
        self.retries = 0
        """Passes that were made because the one before failed."""
        self._some = asyncio.Semaphore(0)
        self._running = False

    def add(self, key: Key) -> None:
        """Have a key worked on soon."""
        if not self._running:
            if self._existing is None:
                self._woken[key] = None
        elif key in self._at_work:
            self._once_more.add(key)
        elif key not in self._queued:
            self._is_due(key)
            self._add_after(key, self._soon(key))

    def add_all(self) -> None:
        """Have every key worked on that there is."""
        for key in list(self._existing()) if self._existing is not None else list(self._woken):
            self.add(key)

    def __len__(self) -> int:
        """Return how many keys something is kept of."""
        return len({*self._woken, *self._timers, *self._queued, *self._at_work, *self._failures})

    @property
    def depth(self) -> int:
        """How many keys wait for a worker."""
        return len(self._queued)

    @property
    def retrying(self) -> int:
        """Of how many keys the last pass failed."""
        return len(self._failures)

    @property
    def oldest_seconds(self) -> float:
        """For how long the first of the keys has been due that had no successful pass since; 0 without one.

        Failed passes and the pauses after them count, and so does a pass that is under way. A key that asked for a
        later pass is due when that time has come.
        """
        since = next(iter(self._due_since.values()), None)
        return 0.0 if since is None else max(0.0, asyncio.get_running_loop().time() - since)

    async def run(self, work: Work) -> None:
        """Make passes until cancelled, beginning with every key that there is; may be run again after that.

        Args:
            work: makes a pass over a key; it may return the seconds after which to make another one.

        """
        self._running = True
        woken, self._woken = self._woken, {}
        for key in woken:
            self.add(key)
        self.add_all()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._keep_working(work), name=f"{self._name} {number}")
                if self._existing is not None:
                    group.create_task(self._resync(self._existing), name=f"{self._name} resync")
        finally:
            self._stop()

    def _stop(self) -> None:
        self._running = False
        for timer in self._timers.values():
            timer.cancel()
        if self._existing is None:
            self._woken |= dict.fromkeys([*self._timers, *self._queued, *self._at_work])
        for kept in (
            self._timers,
            self._ready,
            self._queued,
            self._at_work,
            self._once_more,
            self._failures,
            self._due_since,
        ):
            kept.clear()
        self._some = asyncio.Semaphore(0)

    def _is_due(self, key: Key) -> None:
        self._due_since.setdefault(key, asyncio.get_running_loop().time())

    def _soon(self, key: Key) -> float:
        """Return the seconds that a woken key waits: some more while it fails, however often it is woken."""
        return FIRST_PAUSE if key in self._failures else SETTLE_SECONDS

    def _add_after(self, key: Key, seconds: float) -> None:
        """Have a key ready in so many seconds, or sooner if it is to be already."""
        loop = asyncio.get_running_loop()
        before = self._timers.get(key)
        if before is not None:
            if before.when() <= loop.time() + seconds:
                return
            before.cancel()
        self._timers[key] = loop.call_later(seconds, self._is_ready, key)

    def _is_ready(self, key: Key) -> None:
        del self._timers[key]
        self._is_due(key)
        self._queued.add(key)
        self._ready.setdefault(key[0], deque()).append(key)
        self._some.release()

    def _next(self) -> Key:
        """Take the first key of the first part whose turn it is, which then comes last."""
        first = next(iter(self._ready))
        keys = self._ready.pop(first)
        key = keys.popleft()
        if keys:
            self._ready[first] = keys
        self._queued.discard(key)
        return key

    async def _keep_working(self, work: Work) -> None:
        while True:
            await self._some.acquire()
            key = self._next()
            self._at_work.add(key)
            try:
                requeue_after = await self._worked(key, work)
            finally:
                self._at_work.discard(key)
            if key in self._once_more:
                self._once_more.discard(key)
                self._is_due(key)
                requeue_after = self._soon(key)
            if requeue_after is not None:
                self._add_after(key, max(requeue_after, SETTLE_SECONDS))

    async def _worked(self, key: Key, work: Work) -> float | None:
        """Make a pass over a key; return in how many seconds the next one is due, if one is."""
        self.retries += key in self._failures
        try:
            async with asyncio.timeout(WORK_SECONDS):
                requeue_after = await work(key)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            # Else it was something that the work waited for, and this worker goes on.
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause = with_jitter(exponential(FIRST_PAUSE, LONGEST_PAUSE, failures), self._rng.random())
            log.warning(
                "%s %s failed, retrying in %.1f s: %s: %s",
                self._name,
                "/".join(key),
                pause,
                type(error).__name__,
                str(error)[:LONGEST_ERROR],
                exc_info=log.isEnabledFor(logging.DEBUG),
            )
            return pause
        self._failures.pop(key, None)
        self._due_since.pop(key, None)
        return requeue_after

    async def _resync(self, existing: Callable[[], Iterable[Key]]) -> None:
        """Wake every key once in a while, one after the other."""
        while True:
            keys = list(existing())
            self._rng.shuffle(keys)
            if not keys:
                await asyncio.sleep(RESYNC_SECONDS)
            for key in keys:
                await asyncio.sleep(RESYNC_SECONDS * (0.75 + 0.5 * self._rng.random()) / len(keys))
                self.add(key)

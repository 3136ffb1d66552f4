"""Background tasks, one for a key: with a limit over all and for one peer, and growing pauses after failures.

A planner returns the same action again until it observes the result. `KeyedTaskPool` makes that harmless: a task that
runs, or waits for its next attempt, is not begun a second time. No caller waits for a task, so a slow peer delays no
other peer. Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial

from patio_protocol.backoff import exponential, with_jitter

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
MOST = 10_000
"""Jobs that run or wait for a place. What is not begun is given again by the pass that follows when one ends.
"""
IN_ANY_CASE = 1_000
"""Of these, of one namespace, also when others have all the rest: their jobs may wait for peers that never answer."""
FORGET_SECONDS = 300.0
"""A key that was not tried again for so long is forgotten, with its failures."""

FEW_FAILURES = 256
"""Failures that are kept before old ones are looked for."""

Work = Callable[[], Awaitable[bool]]
"""Does something; returns whether that worked. What it raises is an error of the program, and counts as a failure."""


@dataclass
class _Failed:
    failures: int
    until: float


@dataclass(frozen=True)
class _Job:
    namespace: str
    group: str
    key: Hashable
    work: Work


class KeyedTaskPool:
    """Runs work in the background. Close it at the end."""

    def __init__(
        self,
        name: str,
        at_once: int,
        for_one: int,
        rng: random.Random,
        on_end: Callable[[str], None],
        for_namespace: int | None = None,
    ) -> None:
        """Take the bounds, over all jobs, over those of one group, and over those of one namespace (default: all).

        `on_end` is called with a job's namespace when it is over, or after its pause when it failed.
        """
        self._name = name
        self._at_once = at_once
        self._for_one = for_one
        self._for_namespace = for_namespace or at_once
        self._rng = rng
        self._on_end = on_end
        self._keys: set[Hashable] = set()
        """Of what runs and what waits."""
        self._keys_of: Counter[str] = Counter()
        """How many of these are of a namespace."""
        self._tasks: set[asyncio.Task[bool]] = set()
        self._running: Counter[tuple[str, str]] = Counter()
        """Running jobs, by group and by namespace."""
        self._waiting: dict[str, dict[str, deque[_Job]]] = {}
        """By namespace and group. What waits is no task: there may be a hundred thousand. The namespaces, and the
        groups of each, have their turns in the order in which they are here."""
        self._failed: dict[Hashable, _Failed] = {}
        self._kept = FEW_FAILURES
        self._timers: set[asyncio.TimerHandle] = set()

    def submit(self, namespace: str, group: str, key: Hashable, work: Work) -> bool:
        """Begin, unless this key is at work or waits for its next try, or too many are; return whether it was begun."""
        failed = self._failed.get(key)
        if (
            (len(self._keys) >= MOST and self._keys_of[namespace] >= IN_ANY_CASE)
            or key in self._keys
            or (failed is not None and failed.until > asyncio.get_running_loop().time())
        ):
            return False
        self._keys.add(key)
        self._keys_of[namespace] += 1
        self._waiting.setdefault(namespace, {}).setdefault(group, deque()).append(_Job(namespace, group, key, work))
        if len(self._tasks) < self._at_once:
            self._begin_what_may()
        return True

    def in_progress(self, key: Hashable) -> bool:
        """Tell whether a key is at work, or waits for its turn."""
        return key in self._keys

    async def close(self) -> None:
        """End everything and forget it."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for groups in self._waiting.values():
            for job in [job for jobs in groups.values() for job in jobs]:
                self._forget(job)
        self._waiting.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._failed.clear()

    def _begin_what_may(self) -> None:
        """Begin what waits, each namespace and each group of it in turn: one that is slow holds up no other."""
        while len(self._tasks) < self._at_once:
            job = self._next()
            if job is None:
                return
            self._running.update((_group(job), _namespace(job)))
            task = asyncio.create_task(self._run(job), name=f"{self._name} {job.key}")
            self._tasks.add(task)
            task.add_done_callback(partial(self._over, job))

    def _next(self) -> _Job | None:
        for namespace in list(self._waiting):
            if self._running["namespace", namespace] >= self._for_namespace:
                continue
            groups = self._waiting[namespace]
            for group in groups:
                if self._running["group", group] < self._for_one:
                    return self._taken(namespace, group)
        return None

    def _taken(self, namespace: str, group: str) -> _Job:
        """Take the first job of a group, and put its group and its namespace behind the others."""
        groups = self._waiting.pop(namespace)
        jobs = groups.pop(group)
        job = jobs.popleft()
        if jobs:
            groups[group] = jobs
        if groups:
            self._waiting[namespace] = groups
        return job

    async def _run(self, job: _Job) -> bool:
        try:
            return await job.work()
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            log.error("%s %s failed: %s: %s", self._name, job.key, type(error).__name__, error)
            return False

    def _retry_later(self, namespace: str, key: Hashable) -> None:
        loop = asyncio.get_running_loop()
        failures = self._failed[key].failures + 1 if key in self._failed else 1
        pause = with_jitter(exponential(FIRST_PAUSE, LONGEST_PAUSE, failures), self._rng.random())
        now = loop.time()
        if len(self._failed) > self._kept:
            self._failed = {
                key: failure for key, failure in self._failed.items() if failure.until > now - FORGET_SECONDS
            }
            self._kept = max(FEW_FAILURES, 2 * len(self._failed))
        self._failed[key] = _Failed(failures, now + pause)

        def requeue() -> None:
            self._timers.discard(timer)
            self._on_end(namespace)

        timer = loop.call_later(pause, requeue)
        self._timers.add(timer)

    def _forget(self, job: _Job) -> None:
        self._keys.discard(job.key)
        self._keys_of[job.namespace] -= 1
        if not self._keys_of[job.namespace]:
            del self._keys_of[job.namespace]

    def _over(self, job: _Job, task: asyncio.Task[bool]) -> None:
        self._tasks.discard(task)
        self._forget(job)
        for counted in (_group(job), _namespace(job)):
            self._running[counted] -= 1
            if not self._running[counted]:
                del self._running[counted]
        if task.cancelled():
            return
        if task.result():
            self._failed.pop(job.key, None)
            self._on_end(job.namespace)
        else:
            self._retry_later(job.namespace, job.key)
        self._begin_what_may()


def _group(job: _Job) -> tuple[str, str]:
    return "group", job.group


def _namespace(job: _Job) -> tuple[str, str]:
    return "namespace", job.namespace

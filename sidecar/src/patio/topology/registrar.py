"""Keeps a set of workers registered at one router: each round polls, plans for every worker, and acts.

Used by `client` for the one worker of a pod and by `server` for all that have leases. Decisions are `plan`'s, HTTP is
`routers`'. It removes only what it was once asked to register: workers that others registered are left alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from patio.rejection import Rejection
from patio.topology.planner import (
    Add,
    Condition,
    Entry,
    Plan,
    Progress,
    Reason,
    Remove,
    after_poll,
    after_rejection,
    heartbeat,
    pause_after,
    plan,
    unobserved,
)
from patio.topology.registered_worker import Kind, Worker
from patio.topology.routers import Router, RouterError
from patio_protocol.backoff import with_jitter

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Orders to a router at the same time, after it has lost everything."""
LONGEST_WITHOUT_ROUTER = 5.0
"""Seconds between polls of a router that does not answer: it is most likely restarting, and then has lost all
workers."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found."""

    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """By the worker's URL."""
    pause: float = 0.0
    """Seconds before the next round."""
    reached: bool = True
    """Whether the router answered."""


class Registrar:
    """The workers of one router that are ours to keep."""

    def __init__(
        self, router: Router, heartbeat_interval: float, rng: random.Random, count: Callable[[str], None]
    ) -> None:
        """`count` gets the reason of every error."""
        self.router = router
        self._interval = heartbeat_interval
        self._rng = rng
        self._count = count
        self._progress: dict[str, Progress] = {}
        self._failed_polls = 0
        """Looks in a row that the router did not answer."""

    def adopt(self, url: str) -> None:
        """Count a worker as ours without registering it: an earlier life of this sidecar may have."""
        self._progress.setdefault(url, Progress())

    async def round(self, desired: Mapping[str, Worker], held: Collection[str] = ()) -> Round:
        """Poll and act once.

        Workers that are ours and neither wanted nor held are removed; held ones are not touched.
        """
        for url in desired:
            self.adopt(url)
        tracked = [url for url in self._progress if url not in held]
        try:
            entries = await self._poll(tracked, desired)
        except RouterError as error:
            return self._not_reached(error.rejection, desired, tracked)
        if self._failed_polls:
            log.info("router answers again router=%s failed_polls=%d", self.router.name, self._failed_polls)
            # Most likely it is another router: rejections of the last one count no more.
            self._progress = {url: replace(progress, not_before=0.0) for url, progress in self._progress.items()}
        self._failed_polls = 0
        await self._check_modes(desired, entries)
        now = time.monotonic()
        plans = {url: plan(desired.get(url), entries.get(url), self._progress[url], now) for url in tracked}
        limit = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._act(url, planned, limit) for url, planned in plans.items()))
        for url in tracked:
            if url not in desired and entries.get(url) is None:
                del self._progress[url]
        pause = heartbeat(self._interval, self._rng.random())
        requeue_times = [planned.requeue_at for planned in plans.values() if planned.requeue_at is not None]
        if requeue_times:
            # An order given just now is verified soon.
            pause = min(pause, max(0.1, min(requeue_times) - time.monotonic()))
        return Round({url: planned.condition for url, planned in plans.items()}, pause)

    async def _poll(self, tracked: list[str], desired: Collection[str]) -> dict[str, Entry]:
        """Ask for the tracked workers; for a single one by its id, since the whole list can be long."""
        entries: dict[str, Entry] = {}
        if len(tracked) == 1 and (worker_id := self._progress[tracked[0]].worker_id):
            entry = await self.router.worker(worker_id)
            if entry is not None and entry.url == tracked[0]:
                entries = {entry.url: entry}
        if not entries:
            listed = await self.router.workers()
            entries = {url: listed[url] for url in tracked if url in listed}
            for url in tracked:
                worker_id = self._progress[url].worker_id
                if url not in entries and worker_id and (entry := await self.router.worker(worker_id)) is not None:
                    entries[url] = entry
        for url in tracked:
            entry = entries.get(url)
            if entry is not None and entry.failed is not None:
                message = f"The router could not add the worker: {entry.failed}"
                del entries[url]
            elif entry is None and self._progress[url].ordered is not None:
                # smg 1.13.0 forgets an addition that failed.
                message = "The router accepted the worker, could not add it, and has forgotten it."
            else:
                self._progress[url] = after_poll(self._progress[url], entry)
                continue
            if url in desired:
                self._fail(url, Rejection(Reason.ERROR, message))
            else:
                self._progress[url] = after_poll(self._progress[url], None)
        return entries

    async def _check_modes(self, desired: Mapping[str, Worker], entries: Mapping[str, Entry]) -> None:
        """Find out once a registration whether the router uses what it lists."""
        mismatches: dict[Kind, str | None] = {}
        for url, worker in desired.items():
            entry, progress = entries.get(url), self._progress[url]
            if entry is None or entry.pending or entry.draining or not entry.healthy:
                continue
            # Pairs can hide the mode later on, so a verdict on one half of a pair stands.
            is_final = progress.mismatch is None or worker.kind is not Kind.REGULAR
            if progress.checked == entry.id and is_final:
                continue
            try:
                if worker.kind not in mismatches:
                    mismatches[worker.kind] = await self.router.ignores(worker.kind)
            except RouterError:
                return  # the next round asks again
            mismatch = mismatches[worker.kind]
            self._progress[url] = replace(progress, checked=entry.id, mismatch=mismatch)
            if mismatch is not None and mismatch != progress.mismatch:
                self._count(Reason.MODE)
                log.warning(
                    "worker listed but not used router=%s worker=%s message=%s", self.router.name, url, mismatch
                )

    async def _act(self, url: str, plan: Plan, limit: asyncio.Semaphore) -> None:
        action = plan.action
        if action is None:
            return
        async with limit:
            try:
                if isinstance(action, Add):
                    log.info("worker add router=%s worker=%s reason=%s", self.router.name, url, action.reason)
                    worker_id = await self.router.add(action.worker)
                    ordered = replace(self._progress[url], worker_id=worker_id, ordered=time.monotonic(), listed=False)
                    self._progress[url] = ordered
                else:
                    assert isinstance(action, Remove)
                    log.info("worker remove router=%s worker=%s reason=%s", self.router.name, url, action.reason)
                    await self.router.remove(action.worker_id)
            except RouterError as error:
                self._fail(url, error.rejection)

    def _fail(self, url: str, rejection: Rejection) -> None:
        self._count(rejection.reason)
        log.warning(
            "registration failed router=%s worker=%s reason=%s message=%s",
            self.router.name,
            url,
            *_reason_and_message(rejection),
        )
        self._progress[url] = after_rejection(self._progress[url], rejection, time.monotonic(), self._rng.random())

    def _not_reached(self, rejection: Rejection, desired: Mapping[str, Worker], tracked: list[str]) -> Round:
        if not self._failed_polls:
            self._count(rejection.reason)
            log.warning(
                "router poll failed router=%s reason=%s message=%s", self.router.name, *_reason_and_message(rejection)
            )
        pause = LONGEST_WITHOUT_ROUTER if not rejection.retryable else pause_after(self._failed_polls)
        self._failed_polls += 1
        conditions = {
            url: unobserved(
                rejection, replace(self._progress[url], failures=self._failed_polls), leaving=url not in desired
            )
            for url in tracked
        }
        pause = with_jitter(min(LONGEST_WITHOUT_ROUTER, pause), self._rng.random())
        return Round(conditions, pause, reached=False)


def _reason_and_message(rejection: Rejection) -> tuple[str, str]:
    return rejection.reason, rejection.message

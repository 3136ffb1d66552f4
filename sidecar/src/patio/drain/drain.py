"""Drains the pod: not ready, out of the routers' lists, then waiting for the engine's last request.

One drain at a time, which later calls join; a pod stays out of service until its sidecar is started again, and each
call counts the engine's requests again. `planner` decides, `request_counter` counts, `app` passes the topology in. It
never stops the engine: the kubelet does that afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from patio.drain.planner import CountOutcome, DrainOutcome, DrainSnapshot, DrainState, observe, outcome, plan
from patio.drain.request_counter import RequestCounter
from patio.drain.settings import DrainSettings
from patio.readiness import Blocker, BlockerKind
from patio_protocol.topology import DrainAnswer

log = logging.getLogger(__name__)

COUNT_EVERY = 0.25
NEAR_THE_END = 0.25
"""Seconds before its deadline that a call is answered: the answer has to arrive."""
LEAVE_SHARE = 0.4
LONGEST_LEAVE = 10.0
"""How much of a call's time is spent on routers that do not answer: most likely they are gone, and send nothing."""


class Departure(Protocol):
    """What takes the pod out of the routers' lists."""

    def begin(self) -> None:
        """Leave all routers permanently."""

    @property
    def has_left(self) -> bool:
        """Whether all of them say that they send nothing more."""

    @property
    def unreachable(self) -> bool:
        """Whether each of them that does not say so did not answer when it was asked to let go."""


class Drain:
    """The drain of this pod."""

    def __init__(
        self,
        settings: DrainSettings,
        counter: RequestCounter,
        departure: Departure,
        count: Callable[[DrainOutcome, float], None],
    ) -> None:
        """`count` is called with the outcome of each call that is answered, and the seconds that it waited."""
        self._settings = settings
        self._counter = counter
        self._departure = departure
        self._count = count
        self._called = False
        self._task: asyncio.Task[None] | None = None
        self._snapshot = DrainSnapshot()
        self._drain_state = DrainState.GO_ON
        self._leave_until = float("-inf")
        """When the most patient caller no longer waits for routers that do not answer."""
        self._callers = 0
        self._answered: asyncio.Future[None] | None = None

    @property
    def draining(self) -> bool:
        """Whether the pod was drained, or is being."""
        return self._called

    @property
    def blockers(self) -> tuple[Blocker, ...]:
        """Why the pod is not ready: it was drained, or is being."""
        message = "drain: this pod is out of service until its sidecar restarts"
        return (Blocker(BlockerKind.DRAIN, message),) * self._called

    @property
    def awaited(self) -> asyncio.Future[None] | None:
        """Done when everyone who waits for the drain has an answer; None while no caller waits."""
        return self._answered

    async def drain(self, timeout: float | None) -> DrainAnswer:
        """Drain, or join the drain that runs; answer when it is over, or after `timeout` seconds."""
        seconds = max(0.0, (self._settings.timeout if timeout is None else timeout) - NEAR_THE_END)
        called = time.monotonic()
        self._called = True
        self._departure.begin()
        self._leave_until = max(self._leave_until, called + min(LONGEST_LEAVE, LEAVE_SHARE * seconds))
        if self._task is None:
            log.info("drain begins seconds=%g", seconds)
            self._task = asyncio.create_task(self._run(), name="drain")
        await self._wait(self._task, seconds)
        waited = time.monotonic() - called
        self._count(outcome(self._snapshot, self._drain_state, self._departure.has_left), waited)
        return self._answer(waited)

    async def close(self) -> None:
        """Cancel a drain that is in progress."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _wait(self, task: asyncio.Task[None], seconds: float) -> None:
        if self._answered is None:
            self._answered = asyncio.get_running_loop().create_future()
        self._callers += 1
        try:
            # A caller that joins may leave without ending it for the others.
            await asyncio.wait((task,), timeout=seconds)
        finally:
            self._callers -= 1
            if not self._callers:
                self._answered.set_result(None)
                self._answered = None
        if task.done():
            task.result()

    async def _run(self) -> None:
        began = time.monotonic()
        if self._drain_state is not DrainState.DRAINED:
            self._snapshot = DrainSnapshot()
        # A drained engine is still drained if the next count says the same.
        self._drain_state = DrainState.GO_ON
        try:
            while self._drain_state is DrainState.GO_ON:
                has_left = self._left_or_timed_out()
                count = await self._counter.count()
                now = time.monotonic()
                self._snapshot = observe(self._snapshot, count, has_left, now)
                self._drain_state = plan(self._snapshot, self._settings.settle, now)
                if self._drain_state is DrainState.GO_ON:
                    await asyncio.sleep(COUNT_EVERY)
            log.info(
                "drain ends state=%s seconds=%.1f left=%s", self._drain_state, now - began, self._departure.has_left
            )
        finally:
            self._task = None

    def _left_or_timed_out(self) -> bool:
        departure = self._departure
        return departure.has_left or (departure.unreachable and time.monotonic() >= self._leave_until)

    def _answer(self, waited: float) -> DrainAnswer:
        last, has_left = self._snapshot.last, self._departure.has_left
        drained = self._drain_state is DrainState.DRAINED
        message = []
        if not has_left:
            message.append("A router may still send requests; see GET /v1/topology.")
        if self._drain_state is DrainState.BLIND:
            message.append("The engine does not report how many requests it has.")
        elif last.outcome is CountOutcome.NO_ANSWER:
            message.append("The engine does not answer, so its number of requests is unknown.")
        elif not drained and not (last.quiet and not has_left):
            message.append("The engine still has requests, or had some a moment ago.")
        elif last.outcome is CountOutcome.GONE:
            message.append("The engine has stopped.")
        return DrainAnswer(
            drained=drained,
            running=0 if last.outcome is CountOutcome.GONE else last.running,
            waiting=0 if last.outcome is CountOutcome.GONE else last.waiting,
            unregistered=has_left,
            waited_seconds=round(waited, 3),
            message=" ".join(message),
        )

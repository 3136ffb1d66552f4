"""Drains the pod: not ready, out of the routers' lists, then waiting for the engine's last request.

One drain at a time, which later calls join; a pod that was drained stays so until its sidecar starts anew. `plan`
decides, `looks` counts, `app` gives it the topology. It never stops the engine: that is the kubelet's, afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from patio.api.topology_protocol import DrainAnswer
from patio.drain.config import DrainSettings
from patio.drain.looks import EngineLooks
from patio.drain.plan import Sight, Verdict, Watch, after, verdict

log = logging.getLogger(__name__)

LOOK_EVERY = 0.25
NEAR_THE_END = 0.25
"""Seconds before its deadline that the answer is given: it has to arrive."""
LEAVE_SHARE = 0.4
LONGEST_LEAVE = 10.0
"""Of the time there is, how much is spent on routers that do not answer: most likely they are gone, and send
nothing."""

Leave = Callable[[float], Awaitable[bool]]
"""Leaves all routers, within so many seconds; returns whether they send nothing more."""


class Drain:
    """The drain of this pod."""

    def __init__(self, settings: DrainSettings, looks: EngineLooks, leave: Leave) -> None:
        self._settings = settings
        self._looks = looks
        self._leave = leave
        self._running: asyncio.Task[None] | None = None
        self._watch = Watch(began=0.0)
        self._unregistered = False
        self._over: Verdict = Verdict.GO_ON
        self._called = False

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Why the pod is not ready: it was drained, or is being."""
        return ("drain: this pod is taken out of service; only a restart of its sidecar brings it back",) * self._called

    @property
    def under_way(self) -> asyncio.Task[None] | None:
        """The drain that runs now."""
        return self._running

    async def drain(self, timeout: float | None) -> DrainAnswer:
        """Drain, or join the drain that runs; answer when it is over, or after `timeout` seconds."""
        seconds = self._settings.timeout if timeout is None else timeout
        called = time.monotonic()
        self._called = True
        if self._running is None and self._over is not Verdict.DRAINED:
            log.info("drain begins timeout=%g", seconds)
            self._running = asyncio.create_task(self._drain(max(0.0, seconds - NEAR_THE_END)), name="drain")
        if self._running is not None:
            # Whoever joins may leave without ending it for the others.
            await asyncio.wait((self._running,), timeout=max(0.0, seconds - NEAR_THE_END))
            if self._running is not None and self._running.done():
                self._running.result()
        return self._answer(time.monotonic() - called)

    async def close(self) -> None:
        """Drop a drain that is under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _drain(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._watch_it(seconds)
        except TimeoutError:
            log.warning(
                "drain not over in time running=%s waiting=%s unregistered=%s",
                self._watch.last.running,
                self._watch.last.waiting,
                self._unregistered,
            )
        finally:
            self._running = None

    async def _watch_it(self, seconds: float) -> None:
        began = time.monotonic()
        self._over = Verdict.GO_ON
        self._watch = Watch(began=began)
        budget = min(LONGEST_LEAVE, LEAVE_SHARE * seconds)
        leaving = asyncio.create_task(self._leave_routers(budget), name="leave routers")
        try:
            while True:
                left = leaving.done()
                look = await self._looks.look()
                now = time.monotonic()
                self._watch = after(self._watch, look, left, now)
                self._over = verdict(self._watch, self._settings.settle, now)
                if self._over is not Verdict.GO_ON:
                    log.info("drain over verdict=%s seconds=%.1f", self._over, now - began)
                    return
                await asyncio.sleep(LOOK_EVERY)
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _leave_routers(self, seconds: float) -> None:
        self._unregistered = await self._leave(seconds)
        if not self._unregistered:
            log.warning("routers not left in time seconds=%.1f", seconds)

    def _answer(self, waited: float) -> DrainAnswer:
        last = self._watch.last
        drained = self._over is Verdict.DRAINED
        words = ""
        if not self._unregistered:
            words = "The router does not say that it sends nothing more; see GET /v1/topology. "
        if self._over is Verdict.BLIND:
            words += "The engine does not tell how many requests it has."
        elif not drained:
            words += "The engine still has requests, or has had some a moment ago."
        elif last.sight is Sight.GONE:
            words += "The engine is gone."
        return DrainAnswer(
            drained=drained,
            running=0 if last.sight is Sight.GONE else last.running,
            waiting=0 if last.sight is Sight.GONE else last.waiting,
            unregistered=self._unregistered,
            waited_seconds=round(waited, 3),
            message=words.strip(),
        )

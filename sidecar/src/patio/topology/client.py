"""Keeps this pod's worker registered while its engine is ready, and takes it out before the pod goes.

One loop a router: each round asks a `RouterRegistration` to have the worker in or out, shows what came of it, and rests
until the next reading or until what is desired changes. `app` passes in the engine's readiness; `patio.drain` and the
end of the process ask it to leave. It decides nothing about routers: `planner` does, through `registration`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from patio.topology.planner import Condition, Reason
from patio.topology.registered_worker import Worker
from patio.topology.registration import RouterRegistration
from patio.topology.settings import Role
from patio_protocol.topology import Registration, RegistrationState, TopologyReport

log = logging.getLogger(__name__)

POLL_ENGINE_SECONDS = 0.25
"""Seconds between checks whether the engine is ready; they cost nothing."""


class TopologyClient:
    """This pod's side of the topology."""

    def __init__(
        self, worker: Worker, registrations: Sequence[RouterRegistration], engine_ready: Callable[[], bool]
    ) -> None:
        self._worker = worker
        self._registrations = tuple(registrations)
        self._engine_ready = engine_ready
        self._leaving = False
        self._woken = asyncio.Event()
        now = time.time()
        self._shown = [
            Registration(
                router=registration.name,
                worker_url=worker.url,
                worker_type=worker.kind,
                state=RegistrationState.NOT_REGISTERED,
                reason=Reason.NOT_CONTACTED,
                since=now,
            )
            for registration in self._registrations
        ]
        self._is_out = [False] * len(self._registrations)
        self._unreachable = [False] * len(self._registrations)
        """Which routers did not answer when they were asked to let go."""

    async def run(self) -> None:
        """Keep it so, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(len(self._registrations)):
                tasks.create_task(self._keep(number), name=f"topology {number}")

    def report(self) -> TopologyReport:
        """Return the registrations as last read back."""
        registered = all(registration.state is RegistrationState.REGISTERED for registration in self._shown)
        return TopologyReport(role=Role.CLIENT, registered=registered, registrations=tuple(self._shown))

    def leave(self) -> None:
        """Leave every router permanently."""
        if not self._leaving:
            self._leaving = True
            self._wake()

    @property
    def has_left(self) -> bool:
        """Whether this pod leaves, and every router sends it nothing more."""
        return self._leaving and all(self._is_out)

    @property
    def unreachable(self) -> bool:
        """Whether this pod leaves, and every router that has not let go did not answer when it was asked to."""
        return self._leaving and all(
            out or unreachable for out, unreachable in zip(self._is_out, self._unreachable, strict=True)
        )

    async def wait_until_left(self, seconds: float) -> bool:
        """Leave; return whether every router sends nothing more, within so many seconds."""
        self.leave()
        try:
            async with asyncio.timeout(seconds):
                while not self.has_left:
                    await self._woken.wait()
        except TimeoutError:
            return False
        return True

    async def _keep(self, number: int) -> None:
        registration = self._registrations[number]
        while True:
            desired = self._is_desired()
            if desired:
                self._is_out[number] = False
            condition, pause, verified = await registration.step(self._worker if desired else None)
            self._show(number, self._explained(condition), verified)
            self._is_out[number] = condition.out and not desired
            self._unreachable[number] = condition.reason == Reason.UNREACHABLE and not desired
            self._wake()
            await self._rest(desired, pause)

    def _is_desired(self) -> bool:
        return self._engine_ready() and not self._leaving

    async def _rest(self, desired: bool, pause: float) -> None:
        deadline = time.monotonic() + pause
        # There is no event for an engine that becomes ready, or no longer is.
        while self._is_desired() is desired and (remaining := deadline - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(remaining, POLL_ENGINE_SECONDS))

    def _wake(self) -> None:
        self._woken.set()
        self._woken = asyncio.Event()

    def _explained(self, condition: Condition) -> Condition:
        """Return a standing with the pod's reason for staying out."""
        if condition.reason != Reason.NOT_DESIRED:
            return condition
        if self._leaving:
            return replace(condition, reason=Reason.DRAINED, message="The pod is drained or stops.")
        return replace(
            condition,
            reason=Reason.ENGINE_NOT_READY,
            message="The sidecar registers the worker once the engine is ready.",
        )

    def _show(self, number: int, condition: Condition, verified: bool) -> None:
        previous = self._shown[number]
        now = time.time()
        changed = condition.state is not previous.state
        if changed or condition.reason != previous.reason:
            log.info(
                "registration router=%s state=%s reason=%s worker=%s id=%s",
                previous.router,
                condition.state,
                condition.reason,
                previous.worker_url,
                condition.worker_id,
            )
        self._shown[number] = previous.model_copy(
            update={
                "worker_id": condition.worker_id,
                "state": condition.state,
                "reason": condition.reason,
                "message": condition.message,
                "since": now if changed else previous.since,
                "verified": now if verified else previous.verified,
            }
        )

"""Holds requests until a worker may answer them: the shell around `queue`, with the timer and the waiting tasks.

`app` calls `hold` for each request and answers by its outcome. A new snapshot, a timer or a client that hangs up moves
the queues. Nothing here decides who goes on, and nothing keeps a body.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from patio_gateway.front.demand import Demand, demand
from patio_gateway.front.knowledge import Index, Knowledge
from patio_gateway.front.queue.line import Ticket
from patio_gateway.front.queue.queues import Bounds, FullQueue, Queues
from patio_gateway.front.rounds import Round, delay
from patio_gateway.snapshot import Model, Snapshot


class Outcome(Enum):
    """How a wait ended."""

    READY = "ready"
    MODEL_FULL = "model_full"
    GATEWAY_FULL = "gateway_full"
    LATE = "late"
    DELETED = "deleted"
    STOPPING = "stopping"
    HUNG_UP = "hung_up"


REFUSED = {FullQueue.MODEL_FULL: Outcome.MODEL_FULL, FullQueue.GATEWAY_FULL: Outcome.GATEWAY_FULL}


@dataclass(frozen=True)
class Clock:
    """Two clocks: seconds that only grow, and Unix time."""

    monotonic: Callable[[], float]
    unix: Callable[[], float]


@dataclass(frozen=True)
class Asking:
    """Who waits, and with what."""

    client: str
    size: int
    """Bytes of the body."""
    round: Round


class Watcher(Protocol):
    """What is counted of waits."""

    def wait_ended(self, endpoint: str, outcome: Outcome, seconds: float) -> None:
        """A request does not wait any more."""

    def moved(self, index: Index, waiting: frozenset[str], now: float) -> None:
        """The snapshot, or what waits, is another one; `waiting` are the ModelEndpoints that are waited for."""


class Holder:
    """The requests that wait, for all models."""

    def __init__(self, knowledge: Knowledge, clock: Clock, bounds: Bounds, watcher: Watcher) -> None:
        self.index = Index(knowledge.snapshot)
        self._clock = clock
        self._watcher = watcher
        self._queues = Queues(bounds)
        self._numbers = itertools.count()
        self._outcomes: dict[int, asyncio.Future[Outcome]] = {}
        self._activity: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        # Greater than that of an earlier front, so that who waits for its next one is not kept waiting.
        self._version = int(clock.unix() * 1000)
        self._changed = asyncio.Event()
        knowledge.subscribe(self._take)

    async def hold(self, model: Model, adapter: str | None, asking: Asking) -> Outcome:
        """Wait until the model, or the adapter, has a worker and it is this request's turn.

        Raises:
            asyncio.CancelledError: the caller gave up; the request's place is free then.

        """
        now = self._clock.monotonic()
        if (model.endpoint, adapter) not in self.index.places:
            # It was deleted after the caller found it, while the body came. No later snapshot would end the wait.
            self._watcher.wait_ended(model.endpoint, Outcome.DELETED, now - asking.round.since)
            return Outcome.DELETED
        self.note_activity(model.endpoint)
        if self._stopping:
            self._watcher.wait_ended(model.endpoint, Outcome.STOPPING, now - asking.round.since)
            return Outcome.STOPPING
        number = next(self._numbers)
        round_number = asking.round.number
        ticket = Ticket(
            number=number,
            since=asking.round.since,
            deadline=asking.round.since + model.queue.timeout,
            client=asking.client,
            priority=self.index.priorities.get(asking.client, 0),
            size=asking.size,
            not_before=now + delay(round_number) if round_number else None,
        )
        full = self._queues.enter((model.endpoint, adapter), ticket, model.queue.max)
        if full is not None:
            self._watcher.wait_ended(model.endpoint, REFUSED[full], now - asking.round.since)
            return REFUSED[full]
        wait: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._outcomes[number] = wait
        outcome = Outcome.HUNG_UP
        try:
            self._move()
            outcome = await wait
            return outcome
        finally:
            del self._outcomes[number]
            self._queues.leave(number)
            self._watcher.wait_ended(model.endpoint, outcome, self._clock.monotonic() - asking.round.since)
            self._move()

    def stop(self) -> None:
        """End every wait, and let no request wait any more: another replica of the gateway can hold it."""
        self._stopping = True
        self._resolve(self._queues.clear(), Outcome.STOPPING)
        self._move()

    @property
    def stopping(self) -> bool:
        """Whether no request waits any more."""
        return self._stopping

    def note_activity(self, endpoint: str) -> None:
        """Remember that a model was asked for now."""
        self._activity[endpoint] = self._clock.unix()
        self._note_change()

    @property
    def version(self) -> int:
        """Grows whenever the demand is another one."""
        return self._version

    def demand(self) -> tuple[Demand, ...]:
        """Return the demand now."""
        return demand(self._queues.held(), self._activity, self._clock.monotonic())

    async def changed(self, after: int, seconds: float) -> None:
        """Wait until the version is another one than `after`, or for some seconds."""
        try:
            async with asyncio.timeout(seconds):
                while self._version == after:
                    await self._changed.wait()
        except TimeoutError:
            return

    def _take(self, snapshot: Snapshot) -> None:
        self.index = Index(snapshot)
        self._activity = {name: at for name, at in self._activity.items() if name in self.index.endpoints}
        self._resolve(self._queues.drop(self.index.places), Outcome.DELETED)
        self._move()

    def _move(self) -> None:
        """Let requests go on or expire, as far as they may now, and look again when the next one may."""
        now = self._clock.monotonic()
        self._resolve(self._queues.expire(now), Outcome.LATE)
        self._resolve(self._queues.release(now, self.index.ready), Outcome.READY)
        self._watcher.moved(self.index, self._queues.endpoints(), now)
        self._note_change()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._queues.next_time(self.index.ready)
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(at - now, 0.0), self._move)

    def _resolve(self, tickets: tuple[Ticket, ...], outcome: Outcome) -> None:
        for ticket in tickets:
            wait = self._outcomes.get(ticket.number)
            if wait is not None and not wait.done():
                wait.set_result(outcome)

    def _note_change(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

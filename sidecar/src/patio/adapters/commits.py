"""Changes of what is wanted, and the one writer that stores them: many at once with one write (group commit).

An order counts, and is answered, once it is on disk; if it cannot be stored nothing has changed. What was learned (an
engine took these weights, these files are here) counts at once and is written soon after, with whatever else there is.
The store may hang on its volume: it has a thread of its own, and only orders wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from patio.adapters.desired import Desired
from patio.adapters.snapshot import State, with_desired
from patio.adapters.store import Store
from patio.threads import in_thread
from patio_protocol.backoff import exponential

log = logging.getLogger(__name__)

_T = TypeVar("_T")

PAUSE_BETWEEN = 0.1
"""Seconds from one write to the next while there is no order: a thousand loads make a thousand changes."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Pauses after a write that failed and that no order waits for."""
LAST_SECONDS = 1.0
"""For the last write, when the sidecar ends."""


@dataclass(frozen=True, slots=True)
class _Order:
    change: Callable[[Desired], tuple[Desired, Any]]
    on_commit: Callable[[Any], None]
    answer: asyncio.Future[Any]


class Commits:
    """The changes of one sidecar."""

    def __init__(self, state: State, store: Store) -> None:
        self._state = state
        self._store = store
        self._stored: Desired | None = None
        """What was written last."""
        self._orders: list[_Order] = []
        self._write_needed = asyncio.Event()
        self._order_arrived = asyncio.Event()
        self._writing: asyncio.Future[None] | None = None
        self._running = False
        self._write_lock = asyncio.Lock()
        """One write at a time."""

    @property
    def _desired(self) -> Desired:
        return self._state.snapshot.desired

    async def order(self, change: Callable[[Desired], tuple[Desired, _T]], on_commit: Callable[[_T], None]) -> _T:
        """Store a change and let it count; return what it came to, or raise `OSError`.

        `change` may be called twice: for what is written, and for what was learned meanwhile. `on_commit` is called
        with the outcome, at the moment from which the change counts, and not if it could not be stored.
        """
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._orders.append(_Order(change, on_commit, answer))
        self._write_needed.set()
        self._order_arrived.set()
        # An order that was taken is carried out, also if its caller hangs up, and then its error is not read.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if not self._running:
            # Before the first adapter is reconciled, and at the end: there is no writer, so orders write themselves.
            await self._write()
        return await asyncio.shield(answer)

    def learn(self, change: Callable[[Desired], Desired]) -> None:
        """Let a change count that was not ordered, and have it written soon."""
        self._state.apply(with_desired, change(self._desired))
        self.wake()

    def wake(self) -> None:
        """Have what is desired written soon, unless it was written last."""
        if self._desired is not self._stored:
            self._write_needed.set()

    async def run(self) -> None:
        """Write until cancelled, and then once more."""
        failures = 0
        self._write_needed.set()
        self._running = True
        try:
            while True:
                await self._write_needed.wait()
                self._write_needed.clear()
                self._order_arrived.clear()
                failures = 0 if await self._write() else failures + 1
                pause = exponential(FIRST_PAUSE, LONGEST_PAUSE, failures) if failures else PAUSE_BETWEEN
                # Not `wait_for`, which in Python 3.11 loses a cancellation that comes with an order.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._order_arrived.wait()
        finally:
            self._running = False
            await self._write_last()

    async def _write(self) -> bool:
        """Write what there is; return whether it is on disk."""
        async with self._write_lock:
            return await self._write_locked()

    async def _write_locked(self) -> bool:
        previous, orders = self._desired, self._orders
        self._orders = []
        changed, done = previous, []
        for order in orders:
            try:
                changed, outcome = order.change(changed)
            except Exception as error:  # noqa: BLE001 - the outermost of an order: its caller has the error
                _fail(order, error)
            else:
                done.append((order, outcome))
        if changed is previous:
            # Nothing to store, so a full disk rejects no order.
            self._let_count(done)
            done = []
            changed = self._desired
        if changed is not self._stored:
            try:
                await self._save(changed)
            except asyncio.CancelledError:
                # They are written with the last write.
                self._orders = [order for order, _ in done] + self._orders
                raise
            except (OSError, ValueError) as error:
                if not done:
                    log.error("state not stored error=%s", error)
                for order, _ in done:
                    _fail(order, OSError(getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)))
                self._write_needed.set()
                return False
        if self._desired is previous:
            self._state.apply(with_desired, changed)
        else:
            # Something was learned while the disk was at work: both count.
            done = [(order, self._apply(order)) for order, _ in done]
            self._write_needed.set()
        self._let_count(done)
        return True

    def _apply(self, order: _Order) -> Any:
        desired, outcome = order.change(self._desired)
        self._state.apply(with_desired, desired)
        return outcome

    def _let_count(self, done: list[tuple[_Order, Any]]) -> None:
        for order, outcome in done:
            order.on_commit(outcome)
            if not order.answer.done():
                order.answer.set_result(outcome)

    async def _save(self, desired: Desired) -> None:
        if self._writing is not None and not self._writing.done():
            # Of a writer that was cancelled: the file has one writer at a time.
            await asyncio.wait([self._writing])
        self._writing = in_thread(partial(self._store.save, desired), "store")
        await asyncio.shield(self._writing)
        self._stored = desired

    async def _write_last(self) -> None:
        """Write what was learned since, unless the disk hangs."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing], timeout=LAST_SECONDS)
            if not self._writing.done():
                return
        last = asyncio.create_task(self._write())
        await asyncio.wait([last], timeout=LAST_SECONDS)
        last.cancel()


def _fail(order: _Order, error: Exception) -> None:
    if not order.answer.done():
        order.answer.set_exception(error)

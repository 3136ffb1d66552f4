"""Makes the engine have what is desired: polls it, plans, and starts the actions of the plan.

Orders come in from `routes`, each stored by `commits` before it counts; `observation` takes in polls of the engine;
`planner` decides; `executor` carries out. A change only marks that there is something to plan: one step takes in all
changes since the last one, and steps are a small part of the event loop's time however many adapters there are. With
its executor and observers, the one writer of the sidecar's adapter state; it must never act on what is not desired.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from patio.adapters.commits import Commits
from patio.adapters.desired import (
    Desired,
    Key,
    Outcome,
    Slot,
    folders_in_use,
    sources_at_hand,
    with_load,
    with_required,
    with_unload_order,
)
from patio.adapters.engine_monitor import EngineMonitor
from patio.adapters.executor import Attempt, Executor
from patio.adapters.fetching import Credentials, Fetcher, credentials_of, files_of
from patio.adapters.fingerprints import Fingerprints
from patio.adapters.observation import depart, observe
from patio.adapters.observers import Observers
from patio.adapters.plan import Fetch
from patio.adapters.planner import plan, readiness_blockers, reports_of
from patio.adapters.published_state import PublishedState
from patio.adapters.snapshot import AdapterSnapshot, State, paths_in_use, pruned, with_credentials, with_progress
from patio.adapters.store import Store
from patio.engine.base import Engine, EngineView
from patio.engine.history import EngineHistory, after_view
from patio.readiness import Blocker, BlockerKind
from patio.rejection import Rejection
from patio_protocol.adapters import AdapterReport, LoadRequest

log = logging.getLogger(__name__)

POLL_WHILE_UP = 0.5
POLL_WHILE_DOWN = 0.4
"""Seconds between polls. A closed port answers at once, and what is waiting for the engine should not wait for us."""

SHORTEST_PAUSE = 0.1
REST = 8.0
"""Times a step's own duration that pass before the next one."""


class Reconciler:
    """The adapters of one pod."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        required: Iterable[LoadRequest],
        fetcher: Fetcher,
        *,
        boot: str,
        rng: random.Random,
        count: Callable[[Attempt], None],
    ) -> None:
        """`boot` names this start of the sidecar; `count` is called with every attempt."""
        self._engine = engine
        self._fetcher = fetcher
        self._rng = rng
        self._state = State(_first_snapshot(engine, store.load(), tuple(required)))
        self._changed = asyncio.Event()
        """There may be something new to plan."""
        self._running = False
        self._stepped: list[asyncio.Future[None]] = []
        """Who waits for the next step."""
        self._commits = Commits(self._state, store)
        self._monitor = EngineMonitor(engine, self._observe)
        self._fingerprints = Fingerprints()
        self._executor = Executor(
            engine,
            fetcher,
            self._state,
            self._commits,
            self._monitor,
            self._fingerprints,
            rng=rng,
            count=count,
            changed=self._changed.set,
        )
        self._observers = Observers(engine, fetcher, self._state, self._commits, self._fingerprints, self._changed.set)
        self.published = PublishedState(engine, boot)
        """What the API shows of the adapters."""
        self.engine_history = EngineHistory()
        """What was seen of the engine since the start."""
        self._requeue_at = float("inf")
        """When to plan again though nothing changed."""
        self._disk: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        """What was on disk, and what lingered, at the last step."""
        self._show(plan(self._snapshot()).reports)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        self._running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._commits.run(), name="commits")
                tasks.create_task(self._steps(tasks), name="steps")
                tasks.create_task(self._observers.run(), name="observers")
                await self._poll_engine()
        finally:
            self._running = False
            self._release_waiters()
            await self._monitor.close()

    @property
    def engine_view(self) -> EngineView:
        """What the engine answered to the last poll."""
        return self._state.snapshot.view

    def blockers(self) -> tuple[Blocker, ...]:
        """Return every reason why the pod must not get requests; none: it may."""
        view = self.engine_view
        message = f"engine: {view.problem or 'not polled yet'}"
        engine = () if view.ready else (Blocker(BlockerKind.ENGINE, message),)
        waiting = readiness_blockers(self._snapshot(), self.published.list.adapters)
        return (*engine, *(Blocker(BlockerKind.ADAPTER, message) for message in waiting))

    async def order_load(self, request: LoadRequest) -> Rejection | None:
        """Take in an order to load an adapter, or to stage its files. Raise `OSError` when it cannot be stored; then
        nothing has changed.
        """

        def change(desired: Desired) -> tuple[Desired, Rejection | None]:
            ordered = with_load(desired, request)
            return (ordered, None) if isinstance(ordered, Desired) else (desired, ordered)

        def on_commit(rejection: Rejection | None) -> None:
            if rejection is None:
                slot = Slot.STAGED if request.prepare else Slot.ACTIVE
                self._take_credentials((request.lora_name, slot), credentials_of(request))

        rejection = await self._commits.order(change, on_commit)
        if rejection is None:
            await self._wait_for_step()
        return rejection

    async def order_unload(self, name: str, owner: str | None) -> Outcome:
        """Take the orders for an adapter back. Raise `OSError` when that cannot be stored; then nothing has changed."""
        key = (name, Slot.ACTIVE)

        def change(desired: Desired) -> tuple[Desired, Outcome]:
            listed = self.engine_view.adapters or {}
            return with_unload_order(desired, name, owner, listed, sticks=self._engine.unloads_stick)

        def on_commit(outcome: Outcome) -> None:
            if outcome is Outcome.LEAVING:
                self._state.apply(with_progress, key, None)
                self._fingerprints.forget(name)
                self._take_credentials(key, {})
                self._state.snapshot, events = depart(self._state.snapshot)
                self._executor.log_events(events)
                self._commits.wake()
                self._changed.set()

        outcome = await self._commits.order(change, on_commit)
        await self._wait_for_step()
        return outcome

    def _take_credentials(self, key: Key, credentials: Credentials) -> None:
        """Keep the credentials of an order, and cancel what was begun for an order before it."""
        snapshot = self._state.snapshot
        renewed = snapshot.credentials.get(key, {}) != credentials
        self._state.apply(with_credentials, key, credentials)
        if renewed and isinstance(snapshot.running.get(key), Fetch):
            self._executor.cancel(key)
        self._executor.cancel_outdated((key,))

    async def _poll_engine(self) -> None:
        """Poll the engine again and again."""
        while True:
            await self._monitor.poll()
            now = time.monotonic()
            if self._requeue_at <= now or self._disk != (self._fetcher.on_disk(), self._monitor.lingering()):
                self._changed.set()
            pause = POLL_WHILE_UP if self.engine_view.ready else POLL_WHILE_DOWN
            await asyncio.sleep(min(pause, max(SHORTEST_PAUSE, self._requeue_at - now)))

    def _observe(self, view: EngineView) -> None:
        """Take in what the engine answered to a poll."""
        previous = self._state.snapshot
        now = time.monotonic()
        self.engine_history = after_view(self.engine_history, view, now)
        current, events = observe(previous, view, now, self._rng.random)
        self._state.snapshot = current
        self._executor.log_events(events)
        self._commits.wake()
        if events or view != previous.view or current.progress is not previous.progress:
            self._changed.set()

    async def _steps(self, tasks: asyncio.TaskGroup) -> None:
        """Step whenever something changed, and not all the time."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.monotonic()
            self._step(tasks)
            self._release_waiters()
            await asyncio.sleep(REST * (time.monotonic() - began))

    async def _wait_for_step(self) -> None:
        """Return when a step has taken in what is known now."""
        if not self._running:
            self._show(plan(self._snapshot()).reports)
            return
        stepped = asyncio.get_running_loop().create_future()
        self._stepped.append(stepped)
        self._changed.set()
        await stepped

    def _release_waiters(self) -> None:
        for waiter in self._stepped:
            if not waiter.done():
                waiter.set_result(None)
        self._stepped.clear()

    def _step(self, tasks: asyncio.TaskGroup) -> None:
        """Plan, start the actions, and show how things stand."""
        planned = plan(self._snapshot())
        self._requeue_at = float("inf") if planned.requeue_at is None else planned.requeue_at
        started = {action.key[0] for action in planned.actions if self._executor.start(action, tasks)}
        # Only now: a fetch for what is ordered at last goes on with what was staged.
        running = self._state.snapshot.running.items()
        self._executor.cancel_outdated([key for key, action in running if isinstance(action, Fetch)])
        self._state.apply(pruned)
        # What was started is shown as running.
        started_reports = {report.lora_name: report for report in reports_of(self._snapshot(), started)}
        self._show([started_reports.get(report.lora_name, report) for report in planned.reports])

    def _snapshot(self) -> AdapterSnapshot:
        """Return the snapshot of this moment."""
        return replace(self._state.snapshot, now=time.monotonic(), changed_files=self._fingerprints.changed)

    def _show(self, reports: Sequence[AdapterReport]) -> None:
        """Publish the reports, and say which files are in use."""
        snapshot = self._state.snapshot
        self._disk = on_disk, lingering = self._fetcher.on_disk(), self._monitor.lingering()
        self._fetcher.set_in_use(folders_in_use(snapshot.desired, paths_in_use(snapshot) | lingering))
        on_disk |= sources_at_hand(snapshot.desired)
        self.published.publish(snapshot.view, snapshot.capacity, reports, on_disk)


def _first_snapshot(engine: Engine, stored: Desired, required: Sequence[LoadRequest]) -> AdapterSnapshot:
    """Return what is known at the start: what was stored, and what admission asks for."""
    desired = with_required(stored, required)
    rejected = [request.lora_name for request in required if request.lora_name not in desired.required_seen]
    if rejected:
        log.error("too many required adapters rejected=%d first=%s", len(rejected), rejected[0])
    return AdapterSnapshot(
        desired,
        credentials=_credentials(desired, required),
        unverified=frozenset(key for key in desired.specs if key[1] is Slot.STAGED),
        engine=str(engine.kind),
        unloads_wait=engine.unloads_wait,
    )


def _credentials(desired: Desired, required: Sequence[LoadRequest]) -> dict[Key, Credentials]:
    """Return the credentials that the admission variable has for what is desired."""
    by_key: dict[Key, Credentials] = {}
    for request in required:
        spec = desired.spec(request.lora_name)
        if spec is not None and spec.origin is not None and files_of(request)[1] == spec.origin:
            credentials = credentials_of(request)
            if credentials:
                by_key[spec.name, Slot.ACTIVE] = credentials
    return by_key

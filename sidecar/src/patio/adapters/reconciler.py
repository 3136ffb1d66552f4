"""Makes the engine have what is wanted: it looks, plans, and starts what the plan says.

Orders come in from `routes`, each stored by `commits` before it counts; `plan` decides; `executor` carries out.
Whatever changes only marks that there is something to plan: one step then takes in all changes since the last one, and
steps are a small part of the event loop's time however many adapters there are. The one writer, with its executor, of
the sidecar's adapter state; it must never act on what is not wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from patio.adapters.board import Board
from patio.adapters.commits import Commits
from patio.adapters.desired import (
    Desired,
    Outcome,
    Refusal,
    folders_in_use,
    returned,
    same_files,
    sources_at_hand,
    with_fetched,
    with_gone,
    with_load,
    with_new_engine,
    with_required,
    with_returned,
    with_unload,
    with_unloaded,
)
from patio.adapters.executor import Attempt, Executor
from patio.adapters.fetching import Credentials, Fetcher, credentials_of, files_of
from patio.adapters.files import Files
from patio.adapters.looks import Looks
from patio.adapters.plan import full, gone, lost, plan, recovered, reports_of, settled
from patio.adapters.progress import Progress, after_loss, after_success, current
from patio.adapters.situation import Fetch, Situation, Unload
from patio.adapters.state import State
from patio.adapters.store import Store
from patio.engine.base import Capacity, Engine, EngineError, EngineView
from patio_protocol.adapters import AdapterList, AdapterReport, LoadRequest, Readiness

__all__ = ["Attempt", "Reconciler"]

log = logging.getLogger(__name__)

LOOK_WHILE_UP = 0.5
LOOK_WHILE_DOWN = 0.4
"""Seconds between looks. A closed port answers at once, and what is waiting for the engine should not wait for us."""

SHORTEST_PAUSE = 0.1
REST = 8.0
"""Times a step's own duration that pass before the next one."""
LOOK_AT_FILES = 1.0
READ_A_ROUND = 8
"""Configurations of adapters that are read at a time, of those that the engine had before the sidecar came."""
LOOK_AT_CAPACITY = 30.0
"""Seconds between questions for an engine's limits, until it tells them: vLLM 0.32 does after LoRA traffic only."""


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
        """`boot` tells this start of the sidecar from others; `count` is told of every attempt."""
        self._engine = engine
        self._fetcher = fetcher
        self._rng = rng
        required = tuple(required)
        desired = with_required(store.load(), required)
        left_out = [one.lora_name for one in required if one.lora_name not in desired.required_seen]
        if left_out:
            log.error("too many adapters are required left_out=%d first=%s", len(left_out), left_out[0])
        self._state = State(desired, credentials=_credentials(desired, required), unseen=set(desired.prepared))
        self._commits = Commits(self._state, store)
        self._looks = Looks(engine, self._see)
        self._board = Board(engine, boot)
        self._files = Files()
        self._changed = asyncio.Event()
        """There may be something new to plan."""
        self._running = False
        self._stepped: list[asyncio.Future[None]] = []
        """Who waits for the next step."""
        self._executor = Executor(
            engine,
            fetcher,
            self._state,
            self._commits,
            self._looks,
            self._files,
            rng=rng,
            count=count,
            changed=self._changed.set,
        )
        self._due = float("inf")
        """When the next retry may be made."""
        self._disk: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        """What was on disk, and what lingered, at the last step."""
        self._show(plan(self._situation()).reports)

    async def run(self) -> None:
        """Reconcile until cancelled."""
        self._running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._commits.run(), name="commits")
                tasks.create_task(self._steps(tasks), name="steps")
                tasks.create_task(self._watch_files(), name="files")
                tasks.create_task(self._watch_capacity(), name="capacity")
                tasks.create_task(self._check_prepared(), name="prepared")
                await self._watch_engine()
        finally:
            self._running = False
            self._end_waits()
            await self._looks.close()

    @property
    def revision(self) -> str:
        """Changes whenever `adapters` does."""
        return self._board.list.revision

    @property
    def engine_ready(self) -> bool:
        """Whether the engine was ready at the last look."""
        return self._state.view.ready

    @property
    def engine_view(self) -> EngineView:
        """What the engine said of itself at the last look."""
        return self._state.view

    def adapters(self) -> AdapterList:
        """Return every adapter wanted or present."""
        return self._board.list

    def adapters_json(self) -> bytes:
        """Return the same as JSON."""
        return self._board.json

    def readiness(self) -> Readiness:
        """Return whether the pod may get requests, and every reason why not."""
        waiting: tuple[str, ...] = ()
        if not self._state.view.ready:
            waiting = (f"engine: {self._state.view.problem or 'not asked yet'}",)
        waiting += settled(self._situation(), self._board.list.adapters)
        return Readiness(ready=not waiting, waiting_for=waiting)

    def report(self, name: str) -> AdapterReport | None:
        """Return how one adapter stands."""
        return self._board.report(name)

    async def changed(self, revision: str) -> None:
        """Return when `revision` is no longer the current one."""
        await self._board.changed(revision)

    async def report_changed(self, name: str, report: AdapterReport | None) -> None:
        """Return when `report` is no longer the current one of an adapter."""
        await self._board.report_changed(name, report)

    async def order_load(self, request: LoadRequest) -> Refusal | None:
        """Want an adapter from now on, or its files. Raise `OSError` when that can not be stored; then nothing has
        changed.
        """

        def change(desired: Desired) -> tuple[Desired, Refusal | None]:
            ordered = with_load(desired, request)
            return (ordered, None) if isinstance(ordered, Desired) else (desired, ordered)

        def then(refusal: Refusal | None) -> None:
            if refusal is None and request.prepare:
                self._take_prepare_credentials(request.lora_name, credentials_of(request))
            elif refusal is None:
                self._take_credentials(request.lora_name, credentials_of(request))
                self._executor.end_waiting(request.lora_name)

        refusal = await self._commits.order(change, then)
        if refusal is None:
            await self._step_taken()
        return refusal

    async def order_unload(self, name: str, owner: str | None) -> Outcome:
        """Stop wanting an adapter. Raise `OSError` when that can not be stored; then nothing has changed."""

        def change(desired: Desired) -> tuple[Desired, Outcome]:
            listed = self._state.view.adapters or {}
            before = desired.wanted.get(name)
            ordered, outcome = with_unload(desired, name, owner, name in listed)
            if outcome is Outcome.LEAVING and name in ordered.leaving and not self._engine.unloads_stick:
                held = "" if before is None or before.held is None else before.held.path
                path = listed.get(name, held)
                ordered = with_unloaded(ordered, name, path) if path else ordered
            return ordered, outcome

        def then(outcome: Outcome) -> None:
            if outcome is Outcome.LEAVING:
                self._state.progress.pop(name, None)
                self._files.forget(name)
                self._take_credentials(name, {})
                self._executor.end_waiting(name)
                self._forget()

        outcome = await self._commits.order(change, then)
        await self._step_taken()
        return outcome

    def _take_credentials(self, name: str, credentials: Credentials) -> None:
        """Keep what an order came with, and end a fetch for what is no longer wanted or has other credentials now."""
        known = _taken(self._state.credentials, name, credentials)
        busy, wanted = self._state.busy.get(name), self._state.desired.wanted.get(name)
        if isinstance(busy, Fetch) and (known != credentials or wanted is None or not same_files(wanted, busy.wanted)):
            self._executor.end_fetch(name)

    def _take_prepare_credentials(self, name: str, credentials: Credentials) -> None:
        """Do the same for what is fetched ahead."""
        known = _taken(self._state.prepare_credentials, name, credentials)
        if known != credentials and name in self._state.preparing:
            self._executor.end_prepare(name)

    def _tidy(self) -> None:
        """End what fetches ahead for nobody, and forget how it went with names that nobody knows any more."""
        state, prepared = self._state, self._state.desired.prepared
        for name, busy in list(state.preparing.items()):
            if name not in prepared or not same_files(prepared[name], busy.wanted):
                self._executor.end_prepare(name)
                self._changed.set()
        for known in (state.prepare_credentials, state.prepare_progress):
            for name in known.keys() - prepared.keys():
                del known[name]
        # An action may end after the order that no longer wants it.
        desired = state.desired
        known_names = desired.wanted.keys() | desired.leaving | desired.unloaded.keys() | state.view.trials
        for name in state.progress.keys() - known_names - state.busy.keys():
            del state.progress[name]

    async def _watch_engine(self) -> None:
        """Look at the engine again and again."""
        while True:
            await self._looks.look()
            now = time.monotonic()
            if self._due <= now or self._disk != (self._fetcher.on_disk(), self._looks.lingering()):
                self._changed.set()
            pause = LOOK_WHILE_UP if self._state.view.ready else LOOK_WHILE_DOWN
            await asyncio.sleep(min(pause, max(SHORTEST_PAUSE, self._due - now)))

    def _see(self, view: EngineView) -> None:
        """Take in a look at the engine."""
        state, before = self._state, self._state.view
        if view != before:
            self._changed.set()
        if view.ready and not before.ready:
            state.life += 1
            log.info("engine ready engine=%s life=%d", self._engine.kind, state.life)
        elif before.ready and not view.ready:
            log.warning("engine not ready engine=%s problem=%s", self._engine.kind, view.problem)
        situation = self._situation()
        for name in lost(situation, view):
            progress = current(state.progress.get(name), state.desired.wanted[name], state.life)
            if full(view, state.capacity.loaded):
                self._executor.evicted(name, "another one")
            elif progress.fault is None:
                log.warning("adapter lost adapter=%s losses=%d", name, progress.losses + 1)
                state.progress[name] = after_loss(progress, time.monotonic(), self._rng.random())
        for name in recovered(situation, view):
            state.progress[name] = after_success(state.progress[name], time.monotonic())
            self._changed.set()
        state.view = view
        self._forget()
        self._notice_returns()

    def _notice_returns(self) -> None:
        """Order away once more what a request brought back after it was unloaded."""
        state = self._state
        if not state.view.listening:
            self._commits.learn(with_new_engine)
            return
        listed = state.view.adapters or {}
        names = returned(state.desired, listed)
        for name in sorted(names):
            before = state.progress.get(name, Progress())
            if before.life != state.life:
                before = Progress(life=state.life)
            log.warning("adapter back though unloaded adapter=%s times=%d", name, before.losses + 1)
            state.progress[name] = after_loss(before, time.monotonic(), self._rng.random())
        if names:
            self._commits.learn(lambda desired: with_returned(desired, names))
            self._changed.set()

    def _forget(self) -> None:
        """Strike off what has left the engine."""
        away = gone(self._situation())
        if away:
            log.info("adapters gone adapters=%s", ",".join(sorted(away)))
            self._commits.learn(lambda desired: with_gone(desired, away))
            self._changed.set()

    async def _watch_files(self) -> None:
        """Look at the files of adapters that failed, and of those that nobody looked at; they may hang."""
        state = self._state
        while True:
            with _logged("look at files"):
                await self._files.look(
                    {
                        name: wanted.path
                        for name, wanted in state.desired.wanted.items()
                        if wanted.path and (progress := state.progress.get(name)) and progress.fault
                    }
                )
                self._files.keep(state.desired.wanted.keys())
                await self._read_configurations()
            if self._files.changed:
                self._changed.set()
            await asyncio.sleep(LOOK_AT_FILES)

    async def _read_configurations(self) -> None:
        """Read for which base model adapters were made that a sidecar before this one had loaded."""
        state = self._state
        paths = {wanted.path for wanted in state.desired.wanted.values()}
        for path in state.made_for.keys() - paths:
            del state.made_for[path]
        loaded = set((state.view.adapters or {}).values()) & paths
        unread = sorted(loaded - state.made_for.keys())[:READ_A_ROUND]
        for path, seen in zip(unread, await asyncio.gather(*map(self._files.read, unread)), strict=True):
            state.made_for.setdefault(path, "" if seen is None else seen.base_model)
            self._changed.set()

    async def _watch_capacity(self) -> None:
        """Ask once in every life of the engine, and again while it does not tell."""
        state, asked = self._state, 0
        while True:
            life = state.life
            if not state.view.ready or asked == life:
                await asyncio.sleep(LOOK_WHILE_UP)
                continue
            with contextlib.suppress(EngineError), _logged("look at the engine's limits"):
                state.capacity = await self._engine.capacity()
                self._changed.set()
            if state.capacity == Capacity():
                await asyncio.sleep(LOOK_AT_CAPACITY)
            else:
                asked = life

    async def _check_prepared(self) -> None:
        """Fetch ahead once more what whoever shares the disk removed while no sidecar held it."""
        for ahead in list(self._state.desired.prepared.values()):
            there = True
            with _logged("look for prepared files"):
                # What hangs is left to the order that will want it loaded.
                if ahead.path and await self._files.read(ahead.path) is not None:
                    there = await self._fetcher.hold(ahead.path)
            if not there:
                log.info("prepared files are gone adapter=%s folder=%s", ahead.name, ahead.path)
                self._commits.learn(partial(with_fetched, fetched=ahead, folder=""))
            self._state.unseen.discard(ahead.name)
            self._changed.set()

    async def _steps(self, tasks: asyncio.TaskGroup) -> None:
        """Step whenever something changed, and not all the time."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.monotonic()
            self._step(tasks)
            self._end_waits()
            await asyncio.sleep(REST * (time.monotonic() - began))

    async def _step_taken(self) -> None:
        """Return when a step has taken in what is known now."""
        if not self._running:
            self._show(plan(self._situation()).reports)
            return
        taken = asyncio.get_running_loop().create_future()
        self._stepped.append(taken)
        self._changed.set()
        await taken

    def _end_waits(self) -> None:
        for one in self._stepped:
            if not one.done():
                one.set_result(None)
        self._stepped.clear()

    def _step(self, tasks: asyncio.TaskGroup) -> None:
        """Plan, start what is to be done, and show how things stand."""
        todo = plan(self._situation())
        self._due = min((wait.until for wait in todo.waits), default=float("inf"))
        started = [action for action in todo.actions if self._executor.start(action, tasks)]
        # Only now: a fetch for what is wanted at last goes on with what was begun ahead.
        self._tidy()
        # What was started is shown as under way.
        names = {action.name if isinstance(action, Unload) else action.wanted.name for action in started}
        under_way = {report.lora_name: report for report in reports_of(self._situation(), names)}
        self._show([under_way.get(report.lora_name, report) for report in todo.reports])

    def _situation(self) -> Situation:
        return self._state.situation(time.monotonic(), self._files.changed, unloads_wait=self._engine.unloads_wait)

    def _show(self, planned: Sequence[AdapterReport]) -> None:
        """Publish the reports, and say which files are in use."""
        view, desired = self._state.view, self._state.desired
        self._disk = self._fetcher.on_disk(), self._looks.lingering()
        on_disk, lingering = self._disk
        # An action under way may still give the engine what is no longer wanted.
        doing = [action.wanted for action in self._state.busy.values() if not isinstance(action, Unload)]
        paths = [*(wanted.path for wanted in doing), *(wanted.held.path for wanted in doing if wanted.held is not None)]
        self._fetcher.keep(folders_in_use(desired, [*(view.adapters or {}).values(), *paths, *lingering]))
        self._board.publish(view, self._state.capacity, planned, on_disk | sources_at_hand(desired))


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log what nobody foresaw in a watch, which goes on: one odd file or answer must not end the process."""
    try:
        yield
    except EngineError:
        raise
    except Exception:  # the outermost of a round
        log.exception("%s broke", what)


def _taken(known: dict[str, Credentials], name: str, credentials: Credentials) -> Credentials:
    """Put the credentials of an order in the place of those before; return those."""
    before = known.pop(name, {})
    if credentials:
        known[name] = credentials
    return before


def _credentials(desired: Desired, required: Sequence[LoadRequest]) -> dict[str, Credentials]:
    """Return the credentials that the admission variable has for what is wanted."""
    found: dict[str, Credentials] = {}
    for request in required:
        wanted = desired.wanted.get(request.lora_name)
        if wanted is not None and wanted.origin is not None and files_of(request)[1] == wanted.origin:
            credentials = credentials_of(request)
            if credentials:
                found[request.lora_name] = credentials
    return found

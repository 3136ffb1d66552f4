"""Makes the engine have what is wanted: one loop looks, plans, and starts what the plan says.

Orders come in from `api.routes`, each stored before it counts; `plan` decides; every fetch, load and unload is a task
of its own, so that a slow or bad adapter delays no other. After each change the engine's list is read again, and only
the list makes an adapter `Loaded`. The one writer of the sidecar's adapter state; it must never act on what is not
wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from patio.adapters import files
from patio.adapters.board import Board
from patio.adapters.desired import (
    Conflict,
    Desired,
    Outcome,
    Wanted,
    folders_in_use,
    returned,
    same_files,
    sources_at_hand,
    with_fetched,
    with_gone,
    with_load,
    with_loaded,
    with_new_engine,
    with_required,
    with_returned,
    with_unload,
    with_unloaded,
)
from patio.adapters.fetching import Credentials, Fetcher, credentials_of, download_request, files_of
from patio.adapters.looks import Looks
from patio.adapters.plan import full, gone, holds, lost, plan, recovered, settled
from patio.adapters.progress import (
    Fault,
    Progress,
    after_call,
    after_fault,
    after_fetch,
    after_loss,
    after_restore,
    after_success,
    current,
)
from patio.adapters.situation import Action, Fetch, Load, Prepare, Reload, Restore, Situation, Unload
from patio.adapters.store import Store
from patio.api.downloads_protocol import DownloadReason
from patio.api.protocol import AdapterList, AdapterReport, LoadRequest, Readiness
from patio.engine.base import Capacity, Engine, EngineError, EngineView, FaultReason, RetryableError

log = logging.getLogger(__name__)

LOOK_WHILE_UP = 0.5
LOOK_WHILE_DOWN = 0.4
"""Seconds between looks. A closed port answers at once, and what is waiting for the engine should not wait for us."""

SHORTEST_PAUSE = 0.1
LOOK_AT_FILES = 1.0
LOOK_AT_CAPACITY = 30.0
"""Seconds between questions for an engine's limits, until it tells them: vLLM 0.32 does after LoRA traffic only."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One load, reload, restore or unload, as it ended: what the sidecar's metrics count."""

    operation: str
    outcome: str
    reason: str
    seconds: float


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
        self._store = store
        self._fetcher = fetcher
        self._rng = rng
        self._count = count
        required = tuple(required)
        desired = with_required(store.load(), required)
        self._credentials = _credentials(desired, required)
        """By adapter; in memory only."""
        unseen = frozenset(desired.prepared)
        self._situation = Situation(desired, credentials=frozenset(self._credentials), unseen=unseen)
        self._prepare_credentials: dict[str, Credentials] = {}
        self._fetches: dict[str, asyncio.Task[None]] = {}
        self._prepares: dict[str, asyncio.Task[None]] = {}
        self._looks = Looks(engine)
        self._board = Board(engine, boot)
        self._capacity = Capacity()
        self._prints = files.Prints()
        self._writing = asyncio.Lock()
        self._tasks: asyncio.TaskGroup | None = None
        self._due = float("inf")
        """When the next retry may be made."""
        self._refresh()

    async def run(self) -> None:
        """Reconcile until cancelled."""
        try:
            async with self._writing:
                await asyncio.to_thread(self._store.save, self._situation.desired)
        except OSError as error:
            log.error("state not stored error=%s", error)
        await self._check_prepared()
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._watch_files(), name="files")
            self._tasks.create_task(self._watch_capacity(), name="capacity")
            while True:
                await self._look()
                await self._forget()
                await self._notice_returns()
                self._step()
                pause = LOOK_WHILE_UP if self._situation.view.ready else LOOK_WHILE_DOWN
                await asyncio.sleep(min(pause, max(SHORTEST_PAUSE, self._due - time.monotonic())))

    @property
    def revision(self) -> str:
        """Changes whenever `adapters` does."""
        return self._board.list.revision

    @property
    def engine_ready(self) -> bool:
        """Whether the engine was ready at the last look."""
        return self._situation.view.ready

    @property
    def engine_view(self) -> EngineView:
        """What the engine said of itself at the last look."""
        return self._situation.view

    def adapters(self) -> AdapterList:
        """Return every adapter wanted or present."""
        return self._board.list

    def readiness(self) -> Readiness:
        """Return whether the pod may get requests, and every reason why not."""
        waiting: tuple[str, ...] = ()
        if not self._situation.view.ready:
            waiting = (f"engine: {self._situation.view.problem or 'not asked yet'}",)
        waiting += settled(self._situation, self._board.list.adapters)
        return Readiness(ready=not waiting, waiting_for=waiting)

    def report(self, name: str) -> AdapterReport | None:
        """Return how one adapter stands."""
        return self._board.report(name)

    async def changed(self, revision: str) -> None:
        """Return when `revision` is no longer the current one."""
        await self._board.changed(revision)

    async def order_load(self, request: LoadRequest) -> Conflict | None:
        """Want an adapter from now on, or its files. Raise `OSError` when that can not be stored; then nothing has
        changed.
        """
        async with self._writing:
            ordered = with_load(self._situation.desired, request)
            if isinstance(ordered, Conflict):
                return ordered
            await self._keep(ordered)
            if request.prepare:
                self._take_prepare_credentials(request.lora_name, credentials_of(request))
            else:
                self._take_credentials(request.lora_name, credentials_of(request))
        self._step()
        # Only now: a fetch for what is wanted at last goes on with what was begun ahead.
        self._end_prepare(request.lora_name)
        return None

    async def order_unload(self, name: str, owner: str | None) -> Outcome:
        """Stop wanting an adapter. Raise `OSError` when that can not be stored; then nothing has changed."""
        async with self._writing:
            listed = self._situation.view.adapters or {}
            before = self._situation.desired.wanted.get(name)
            ordered, outcome = with_unload(self._situation.desired, name, owner, name in listed)
            if outcome is Outcome.LEAVING:
                held = "" if before is None or before.held is None else before.held.path
                path = listed.get(name, held)
                if path and name in ordered.leaving and not self._engine.unloads_stick:
                    ordered = with_unloaded(ordered, name, path)
                self._set_progress(name, None)
                self._prints.forget(name)
                await self._keep(ordered)
                self._take_credentials(name, {})
                self._end_prepare(name)
        await self._forget()
        self._step()
        return outcome

    def _take_credentials(self, name: str, credentials: Credentials) -> None:
        """Keep what an order came with, and end a fetch for what is no longer wanted or has other credentials now."""
        known = _taken(self._credentials, name, credentials)
        self._situation = replace(self._situation, credentials=frozenset(self._credentials))
        busy, wanted = self._situation.busy.get(name), self._situation.desired.wanted.get(name)
        if isinstance(busy, Fetch) and (known != credentials or wanted is None or not same_files(wanted, busy.wanted)):
            self._fetches.pop(name).cancel()
            self._free(name)

    def _take_prepare_credentials(self, name: str, credentials: Credentials) -> None:
        """Do the same for what is fetched ahead."""
        known = _taken(self._prepare_credentials, name, credentials)
        self._situation = replace(self._situation, prepare_credentials=frozenset(self._prepare_credentials))
        self._end_prepare(name, others=known != credentials)

    def _end_prepare(self, name: str, *, others: bool = False) -> None:
        """End what fetches ahead for nobody. `others`: the credentials are others now."""
        busy, ahead = self._situation.preparing.get(name), self._situation.desired.prepared.get(name)
        if ahead is None:
            self._prepare_credentials.pop(name, None)
            self._situation = replace(self._situation, prepare_credentials=frozenset(self._prepare_credentials))
            self._set_prepare_progress(name, None)
        if busy is not None and (others or ahead is None or not same_files(ahead, busy.wanted)):
            self._prepares.pop(name).cancel()
            self._free_prepare(name)

    async def _keep(self, desired: Desired) -> None:
        """Store a state, then let it count. The caller holds the write lock."""
        if desired != self._situation.desired:
            await asyncio.to_thread(self._store.save, desired)
            self._situation = replace(self._situation, desired=desired)

    async def _remember(self, change: Callable[[Desired], Desired]) -> None:
        """Keep what was learned rather than ordered; a full disk must not stop the loop, memory still has it."""
        async with self._writing:
            desired = change(self._situation.desired)
            try:
                await self._keep(desired)
            except OSError as error:
                log.error("state not stored error=%s", error)
                self._situation = replace(self._situation, desired=desired)

    async def _look(self) -> EngineView:
        """Look at the engine, and take in what is seen if it counts."""
        view = await self._looks.look()
        before = self._situation.view
        if view is not self._looks.view or view is before:
            return view
        if view.ready and not before.ready:
            self._situation = replace(self._situation, life=self._situation.life + 1)
            log.info("engine ready engine=%s life=%d", self._engine.kind, self._situation.life)
        elif before.ready and not view.ready:
            log.warning("engine not ready engine=%s problem=%s", self._engine.kind, view.problem)
        for name in lost(self._situation, view):
            wanted = self._situation.desired.wanted[name]
            progress = current(self._situation.progress.get(name), wanted, self._situation.life)
            if full(view, self._capacity.loaded):
                self._evicted(name, "another one")
            elif progress.fault is None:
                log.warning("adapter lost adapter=%s losses=%d", name, progress.losses + 1)
                self._set_progress(name, after_loss(progress, time.monotonic(), self._rng.random()))
        for name in recovered(self._situation, view):
            self._set_progress(name, after_success(self._situation.progress[name], time.monotonic()))
        self._situation = replace(self._situation, view=view)
        return view

    async def _watch_files(self) -> None:
        """Look at the files of adapters that failed; apart from the loop, since a file system may hang."""
        while True:
            await self._prints.look(
                {
                    name: wanted.path
                    for name, wanted in self._situation.desired.wanted.items()
                    if wanted.path and (progress := self._situation.progress.get(name)) and progress.fault
                }
            )
            if self._prints.changed:
                self._step()
            await asyncio.sleep(LOOK_AT_FILES)

    async def _check_prepared(self) -> None:
        """Fetch ahead once more what whoever shares the disk removed while no sidecar held it."""
        for ahead in self._situation.desired.prepared.values():
            if ahead.path and not await self._fetcher.hold(ahead.path):
                log.info("prepared files are gone adapter=%s folder=%s", ahead.name, ahead.path)
                await self._remember(partial(with_fetched, fetched=ahead, folder=""))
        self._situation = replace(self._situation, unseen=frozenset())

    async def _notice_returns(self) -> None:
        """Order away once more what a request brought back after it was unloaded."""
        if not self._situation.view.listening:
            await self._remember(with_new_engine)
            return
        listed = self._situation.view.adapters or {}
        for name in sorted(returned(self._situation.desired, listed)):
            before = self._situation.progress.get(name, Progress())
            if before.life != self._situation.life:
                before = Progress(life=self._situation.life)
            log.warning("adapter back though unloaded adapter=%s times=%d", name, before.losses + 1)
            self._set_progress(name, after_loss(before, time.monotonic(), self._rng.random()))
            await self._remember(lambda desired: with_returned(desired, returned(desired, listed)))

    async def _watch_capacity(self) -> None:
        """Ask once in every life of the engine, and again while it does not tell."""
        asked = 0
        while True:
            life = self._situation.life
            if not self._situation.view.ready or asked == life:
                await asyncio.sleep(LOOK_WHILE_UP)
                continue
            with contextlib.suppress(EngineError):
                self._capacity = await self._engine.capacity()
                self._refresh()
            if self._capacity == Capacity():
                await asyncio.sleep(LOOK_AT_CAPACITY)
            else:
                asked = life

    async def _forget(self) -> None:
        """Strike off what has left the engine."""
        away = gone(self._situation)
        if away:
            log.info("adapters gone adapters=%s", ",".join(sorted(away)))
            await self._remember(lambda desired: with_gone(desired, away & gone(self._situation)))

    def _step(self) -> None:
        """Plan, start what is to be done, and show how things stand."""
        if self._tasks is None:
            self._refresh()
            return
        self._situation = replace(
            self._situation, now=time.monotonic(), changed=self._prints.changed, limit=self._capacity.loaded
        )
        todo = plan(self._situation)
        self._due = min((wait.until for wait in todo.waits), default=float("inf"))
        for action in todo.actions:
            self._start(action)
        # What was started is shown as under way.
        self._show(plan(self._situation).reports if todo.actions else todo.reports)

    def _start(self, action: Action | Prepare) -> None:
        assert self._tasks is not None
        if isinstance(action, Prepare):
            name = action.wanted.name
            log.info("adapter prepare adapter=%s reason=%s", name, action.reason)
            self._situation = replace(self._situation, preparing={**self._situation.preparing, name: action})
            self._prepares[name] = self._tasks.create_task(self._prepare(action), name=f"prepare {name}")
            return
        name = action.name if isinstance(action, Unload) else action.wanted.name
        log.info("adapter %s adapter=%s reason=%s", type(action).__name__.lower(), name, action.reason)
        self._situation = replace(self._situation, busy={**self._situation.busy, name: action})
        if isinstance(action, Unload):
            self._tasks.create_task(self._unload(action), name=f"unload {name}")
        elif isinstance(action, Fetch):
            self._fetches[name] = self._tasks.create_task(self._fetch(action), name=f"fetch {name}")
        elif isinstance(action, Restore):
            self._tasks.create_task(self._restore(action), name=f"restore {name}")
        else:
            self._tasks.create_task(self._load(action), name=f"load {name}")

    async def _fetch(self, action: Fetch) -> None:
        wanted = action.wanted
        progress = current(self._situation.progress.get(wanted.name), wanted, self._situation.life)
        found = await self._bring(wanted, self._credentials.get(wanted.name, {}))
        if isinstance(found, Fault):
            after = after_fault(progress, found, time.monotonic(), self._rng.random())
        else:
            await self._remember(lambda desired: with_fetched(desired, wanted, found))
            after = after_fetch(progress)
        del self._fetches[wanted.name]
        self._free(wanted.name)
        self._set_progress(wanted.name, after)
        self._step()

    async def _prepare(self, action: Prepare) -> None:
        wanted = action.wanted
        progress = current(self._situation.prepare_progress.get(wanted.name), wanted, 0)
        found = await self._bring(wanted, self._prepare_credentials.get(wanted.name, {}))
        if not isinstance(found, Fault) and not await self._fetcher.hold(found):
            words = f"{found} was removed as soon as it was there: somebody needed the room."
            found = Fault(DownloadReason.NO_SPACE, words, permanent=False)
        if isinstance(found, Fault):
            after = after_fault(progress, found, time.monotonic(), self._rng.random())
        else:
            await self._remember(lambda desired: with_fetched(desired, wanted, found))
            after = after_fetch(progress)
        del self._prepares[wanted.name]
        self._free_prepare(wanted.name)
        self._set_prepare_progress(wanted.name, after)
        self._step()

    async def _bring(self, wanted: Wanted, credentials: Credentials) -> str | Fault:
        """Have the files of an origin fetched; return their folder, or why there is none."""
        assert wanted.origin is not None
        report = await self._fetcher.fetch(download_request(wanted.origin, credentials))
        if report.folder is not None:
            log.info("adapter fetched adapter=%s folder=%s", wanted.name, report.folder)
            return report.folder
        fault = Fault(DownloadReason.CANCELLED, "The download was cancelled.", permanent=False)
        if report.error is not None:
            fault = Fault(report.error.code, report.error.message, permanent=not report.error.retryable)
        log.warning("adapter not fetched adapter=%s reason=%s message=%s", wanted.name, fault.reason, fault.message)
        return fault

    async def _load(self, action: Load | Reload) -> None:
        wanted = action.wanted
        progress = current(self._situation.progress.get(wanted.name), wanted, self._situation.life)
        if wanted.origin is not None and not await self._fetcher.hold(wanted.path):
            log.info("adapter's files are gone adapter=%s folder=%s", wanted.name, wanted.path)
            await self._remember(lambda desired: with_fetched(desired, wanted, ""))
            self._free(wanted.name)
            self._step()
            return
        progress = after_call(progress)
        self._set_progress(wanted.name, progress)
        started = time.monotonic()
        await self._prints.attempt(wanted.name, wanted.path)
        try:
            call = self._engine.load if isinstance(action, Load) else self._engine.replace
            loaded = await call(wanted.name, wanted.path)
            await self._verify(wanted)
        except EngineError as error:
            # What the engine has under the name now is what the next step depends on.
            await self._look()
            fault = Fault(error.reason, error.message, error.permanent)
            after = after_fault(progress, fault, time.monotonic(), self._rng.random())
            level = logging.WARNING if error.permanent else logging.INFO
            log.log(level, "adapter not loaded adapter=%s reason=%s message=%s", wanted.name, error.reason, error)
            self._finish(wanted.name, after, type(action).__name__.lower(), started, error)
            return
        self._prints.forget(wanted.name)
        for name in loaded.evicted:
            self._evicted(name, wanted.name)
        await self._remember(lambda desired: with_loaded(desired, wanted))
        log.info("adapter loaded adapter=%s path=%s revision=%s", wanted.name, wanted.path, wanted.revision)
        after = after_success(progress, time.monotonic())
        self._finish(wanted.name, after, type(action).__name__.lower(), started, None)

    async def _restore(self, action: Restore) -> None:
        wanted = action.wanted
        assert wanted.held is not None
        progress = after_restore(current(self._situation.progress.get(wanted.name), wanted, self._situation.life))
        self._set_progress(wanted.name, progress)
        started = time.monotonic()
        try:
            loaded = await self._engine.load(wanted.name, wanted.held.path)
            await self._look()
        except EngineError as error:
            log.warning("adapter not restored adapter=%s reason=%s message=%s", wanted.name, error.reason, error)
            self._finish(wanted.name, progress, "restore", started, error)
            return
        for name in loaded.evicted:
            self._evicted(name, wanted.name)
        log.info("adapter restored adapter=%s path=%s", wanted.name, wanted.held.path)
        self._finish(wanted.name, progress, "restore", started, None)

    async def _verify(self, wanted: Wanted) -> None:
        view = await self._look()
        if view.adapters is None:
            raise RetryableError(FaultReason.UNREACHABLE, f"Loaded, but the list can not be read: {view.problem}")
        if not holds(replace(wanted, revision=None), view.adapters.get(wanted.name)):
            raise RetryableError(FaultReason.NOT_LISTED, "The engine said that it loaded it, and does not list it.")

    async def _unload(self, action: Unload) -> None:
        started = time.monotonic()
        try:
            await self._engine.unload(action.name)
            await self._look()
        except EngineError as error:
            fault = Fault(error.reason, error.message, error.permanent)
            before = replace(self._situation.progress.get(action.name, Progress()), life=self._situation.life)
            failed = after_fault(before, fault, time.monotonic(), self._rng.random())
            log.warning("adapter not unloaded adapter=%s reason=%s message=%s", action.name, error.reason, error)
            self._finish(action.name, failed, "unload", started, error)
            return
        log.info("adapter unloaded adapter=%s", action.name)
        after: Progress | None = None
        if action.name in self._situation.desired.unloaded:
            # How often it came back is what tells how long to wait the next time.
            before = self._situation.progress.get(action.name, Progress())
            after = replace(before, life=self._situation.life, fault=None, not_before=0.0, right_since=started)
        self._finish(action.name, after, "unload", started, None)
        await self._forget()
        self._refresh()

    def _evicted(self, name: str, by: str) -> None:
        wanted = self._situation.desired.wanted.get(name)
        if wanted is None:
            return
        words = f"The engine dropped it to make room for {by}; raise --max-loaded-loras or want fewer adapters here."
        log.warning("adapter evicted adapter=%s by=%s", name, by)
        progress = current(self._situation.progress.get(name), wanted, self._situation.life)
        fault = Fault(FaultReason.EVICTED, words, permanent=True)
        self._set_progress(name, after_fault(progress, fault, time.monotonic(), self._rng.random()))

    def _finish(
        self, name: str, progress: Progress | None, operation: str, started: float, error: EngineError | None
    ) -> None:
        """End a task of the plan: free the name, keep its progress, count it, and see what is next."""
        self._free(name)
        self._set_progress(name, progress)
        outcome, reason = ("ok", "") if error is None else ("permanent" if error.permanent else "retry", error.reason)
        self._count(Attempt(operation, outcome, str(reason), time.monotonic() - started))
        self._step()

    def _free_prepare(self, name: str) -> None:
        preparing = {key: action for key, action in self._situation.preparing.items() if key != name}
        self._situation = replace(self._situation, preparing=preparing)

    def _set_prepare_progress(self, name: str, progress: Progress | None) -> None:
        others = {key: one for key, one in self._situation.prepare_progress.items() if key != name}
        changed = others if progress is None else {**others, name: progress}
        self._situation = replace(self._situation, prepare_progress=changed)

    def _free(self, name: str) -> None:
        busy = {key: action for key, action in self._situation.busy.items() if key != name}
        self._situation = replace(self._situation, busy=busy)

    def _set_progress(self, name: str, progress: Progress | None) -> None:
        others = {key: one for key, one in self._situation.progress.items() if key != name}
        self._situation = replace(self._situation, progress=others if progress is None else {**others, name: progress})

    def _refresh(self) -> None:
        self._show(plan(self._situation).reports)

    def _show(self, planned: Sequence[AdapterReport]) -> None:
        """Publish the reports, and say which files are in use."""
        view, desired = self._situation.view, self._situation.desired
        # An action under way may still give the engine what is no longer wanted.
        doing = [action.wanted for action in self._situation.busy.values() if not isinstance(action, Unload)]
        paths = [*(wanted.path for wanted in doing), *(wanted.held.path for wanted in doing if wanted.held is not None)]
        self._fetcher.keep(folders_in_use(desired, [*(view.adapters or {}).values(), *paths, *self._looks.lingering()]))
        on_disk = self._fetcher.on_disk() | sources_at_hand(desired)
        self._board.publish(view, self._capacity, planned, on_disk)


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

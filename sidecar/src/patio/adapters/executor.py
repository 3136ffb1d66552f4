"""Carries out what a plan says: each fetch, load and unload in a task of its own, so that a slow or bad adapter delays
no other.

`reconciler` starts the actions and is told of every change. Few calls are at the engine at once, since it makes them
one after the other anyway, and those that wait hold no connection. What goes wrong, foreseen or not, is a fault of the
one adapter, with a pause before the next attempt; it never ends the process. Only the engine's own list makes an
adapter `Loaded`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from patio.adapters.commits import Commits
from patio.adapters.desired import Wanted, with_fetched, with_loaded
from patio.adapters.fetching import Credentials, Fetcher, download_request
from patio.adapters.files import CONFIG, Files, FolderHangsError, Seen
from patio.adapters.looks import Looks
from patio.adapters.plan import holds
from patio.adapters.progress import (
    Fault,
    Progress,
    after_call,
    after_fault,
    after_fetch,
    after_restore,
    after_success,
    current,
)
from patio.adapters.situation import Action, Fetch, Load, Prepare, Reload, Restore, Unload
from patio.adapters.state import State
from patio.engine.base import Engine, EngineError, EngineView, FaultReason, Loaded, RetryableError, trial_name
from patio_protocol.downloads import DownloadReason

log = logging.getLogger(__name__)

LOADS_AT_ONCE = 4
UNLOADS_AT_ONCE = 4
"""Calls at the engine at once."""
MOST_LOADS = 48
MOST_UNLOADS = 32
MOST_FETCHES = 40
MOST_PREPARES = 40
"""Actions under way at once, each kind for itself; the others are planned again. Together the last two are fewer than
downloads may be.
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One load, reload, restore or unload, as it ended: what the sidecar's metrics count."""

    operation: str
    outcome: str
    reason: str
    seconds: float


class Executor:
    """What is under way for the adapters of one pod."""

    def __init__(
        self,
        engine: Engine,
        fetcher: Fetcher,
        state: State,
        commits: Commits,
        looks: Looks,
        files: Files,
        *,
        rng: random.Random,
        count: Callable[[Attempt], None],
        changed: Callable[[], None],
    ) -> None:
        """`count` is told of every attempt, `changed` whenever there may be something new to plan."""
        self._engine = engine
        self._fetcher = fetcher
        self._state = state
        self._commits = commits
        self._looks = looks
        self._files = files
        self._rng = rng
        self._count = count
        self._changed = changed
        self._loading = asyncio.Semaphore(LOADS_AT_ONCE)
        self._unloading = asyncio.Semaphore(UNLOADS_AT_ONCE)
        self._fetches: dict[str, asyncio.Task[None]] = {}
        self._prepares: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, asyncio.Task[None]] = {}
        """Loads that have not asked the engine yet."""

    def start(self, action: Action | Prepare, tasks: asyncio.TaskGroup) -> bool:
        """Start an action, unless too many of its kind are under way; return whether it was started."""
        state = self._state
        if isinstance(action, Prepare):
            name = action.wanted.name
            if len(self._prepares) >= MOST_PREPARES:
                return False
            log.info("adapter prepare adapter=%s reason=%s", name, action.reason)
            state.preparing[name] = action
            self._prepares[name] = tasks.create_task(self._guarded_prepare(action), name=f"prepare {name}")
            return True
        name = action.name if isinstance(action, Unload) else action.wanted.name
        if isinstance(action, Fetch):
            alike, most = len(self._fetches), MOST_FETCHES
        elif isinstance(action, Unload):
            alike, most = sum(isinstance(one, Unload) for one in state.busy.values()), MOST_UNLOADS
        else:
            alike, most = sum(not isinstance(one, Unload | Fetch) for one in state.busy.values()), MOST_LOADS
        if alike >= most:
            return False
        kind = type(action).__name__.lower()
        log.info("adapter %s adapter=%s reason=%s", kind, name, action.reason)
        state.busy[name] = action
        task = tasks.create_task(self._guarded(name, action), name=f"{kind} {name}")
        if isinstance(action, Fetch):
            self._fetches[name] = task
        elif not isinstance(action, Unload):
            self._waiting[name] = task
        return True

    def end_fetch(self, name: str) -> None:
        """End a fetch that nobody wants any more."""
        self._fetches.pop(name).cancel()
        self._state.free(name)

    def end_waiting(self, name: str) -> None:
        """End a load that waits for its turn and is no longer wanted as it was."""
        action = self._state.busy.get(name)
        if name in self._waiting and isinstance(action, Load | Reload | Restore) and self._still(action.wanted) is None:
            self._waiting.pop(name).cancel()
            self._state.free(name)
            self._changed()

    def end_prepare(self, name: str) -> None:
        """The same for what is fetched ahead."""
        self._prepares.pop(name).cancel()
        self._state.preparing.pop(name, None)

    def evicted(self, name: str, by: str) -> None:
        """Note that the engine dropped an adapter that is wanted."""
        wanted = self._state.desired.wanted.get(name)
        if wanted is None:
            return
        words = f"The engine dropped it to make room for {by}; raise --max-loaded-loras or want fewer adapters here."
        log.warning("adapter evicted adapter=%s by=%s", name, by)
        fault = Fault(FaultReason.EVICTED, words, permanent=True)
        self._state.progress[name] = self._failed(self._progress(wanted), fault)

    async def _guarded(self, name: str, action: Action) -> None:
        try:
            match action:
                case Fetch():
                    await self._fetch(action)
                case Unload():
                    await self._unload(action)
                case Restore():
                    await self._restore(action)
                case Load() | Reload():
                    await self._load(action)
        except Exception as error:  # noqa: BLE001 - the outermost of a task: one adapter must not end those of the others
            fault = _broken(error, type(action).__name__.lower(), name)
            before = self._state.progress.get(name, Progress())
            if isinstance(action, Unload):
                before = replace(before, life=self._state.life)
            else:
                before = self._progress(action.wanted)
            self._fetches.pop(name, None)
            self._state.free(name)
            self._state.progress[name] = self._failed(before, fault)
        self._waiting.pop(name, None)
        self._changed()

    async def _guarded_prepare(self, action: Prepare) -> None:
        name = action.wanted.name
        try:
            await self._prepare(action)
        except Exception as error:  # noqa: BLE001 - the outermost of a task, as above
            fault = _broken(error, "prepare", name)
            before = current(self._state.prepare_progress.get(name), action.wanted, 0)
            self._prepares.pop(name, None)
            self._state.preparing.pop(name, None)
            self._state.prepare_progress[name] = self._failed(before, fault)
        self._changed()

    async def _fetch(self, action: Fetch) -> None:
        wanted = action.wanted
        progress = self._progress(wanted)
        found = await self._bring(wanted, self._state.credentials.get(wanted.name, {}))
        if isinstance(found, Fault):
            after = self._failed(progress, found)
        else:
            self._commits.learn(lambda desired: with_fetched(desired, wanted, found))
            after = after_fetch(progress)
        del self._fetches[wanted.name]
        self._state.free(wanted.name)
        self._state.progress[wanted.name] = after

    async def _prepare(self, action: Prepare) -> None:
        wanted = action.wanted
        progress = current(self._state.prepare_progress.get(wanted.name), wanted, 0)
        found = await self._bring(wanted, self._state.prepare_credentials.get(wanted.name, {}))
        if not isinstance(found, Fault) and not await self._fetcher.hold(found):
            words = f"{found} was removed as soon as it was there: somebody needed the room."
            found = Fault(DownloadReason.NO_SPACE, words, permanent=False)
        if isinstance(found, Fault):
            after = self._failed(progress, found)
        else:
            self._commits.learn(lambda desired: with_fetched(desired, wanted, found))
            after = after_fetch(progress)
        del self._prepares[wanted.name]
        self._state.preparing.pop(wanted.name, None)
        self._state.prepare_progress[wanted.name] = after

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
        wanted, operation = action.wanted, type(action).__name__.lower()
        started = time.monotonic()
        try:
            seen = await self._files.attempt(wanted.name, wanted.path)
        except FolderHangsError:
            # The engine would hang in it too, with every other adapter.
            fault = Fault("FolderHangs", f"The file system of {wanted.path} does not answer.", permanent=False)
            self._finish(wanted.name, self._failed(self._progress(wanted), fault), operation, started, fault)
            return
        if wanted.origin is not None and not await self._fetcher.hold(wanted.path):
            log.info("adapter's files are gone adapter=%s folder=%s", wanted.name, wanted.path)
            self._commits.learn(lambda desired: with_fetched(desired, wanted, ""))
            self._state.free(wanted.name)
            return
        self._state.made_for[wanted.path] = seen.base_model
        async with self._loading:
            now = self._still(wanted)
            if now is None:
                self._state.free(wanted.name)
                return
            wanted = now
            progress = after_call(self._progress(wanted))
            self._state.progress[wanted.name] = progress
            started = self._begin(wanted.name)
            before = (self._state.view.adapters or {}).get(wanted.name)
            call = self._engine.load if isinstance(action, Load) else self._engine.replace
            error = await self._loaded(wanted, call(wanted.name, wanted.path))
        # What the engine has under the name now is what the next step depends on, also after a fault.
        view = await self._looks.look()
        if error is not None and not error.permanent and before != wanted.path and _has(view, wanted):
            log.info("adapter loaded although adapter=%s message=%s", wanted.name, error)
            error = None
        elif error is None:
            error = _unverified(view, wanted)
        if error is not None:
            fault = Fault(error.reason, _words(error, wanted, seen), error.permanent)
            level = logging.WARNING if error.permanent else logging.INFO
            log.log(level, "adapter not loaded adapter=%s reason=%s message=%s", wanted.name, error.reason, error)
            self._finish(wanted.name, self._failed(progress, fault), operation, started, fault)
            return
        self._files.forget(wanted.name)
        self._commits.learn(lambda desired: with_loaded(desired, wanted))
        log.info("adapter loaded adapter=%s path=%s revision=%s", wanted.name, wanted.path, wanted.revision)
        self._finish(wanted.name, after_success(progress, time.monotonic()), operation, started, None)

    async def _restore(self, action: Restore) -> None:
        wanted = action.wanted
        assert wanted.held is not None
        async with self._loading:
            if self._still(wanted) is None:
                self._state.free(wanted.name)
                return
            progress = after_restore(self._progress(wanted))
            self._state.progress[wanted.name] = progress
            started = self._begin(wanted.name)
            error = await self._loaded(wanted, self._engine.load(wanted.name, wanted.held.path))
        if error is not None:
            log.warning("adapter not restored adapter=%s reason=%s message=%s", wanted.name, error.reason, error)
            fault = Fault(error.reason, error.message, error.permanent)
            self._finish(wanted.name, progress, "restore", started, fault)
            return
        await self._looks.look()
        log.info("adapter restored adapter=%s path=%s", wanted.name, wanted.held.path)
        self._finish(wanted.name, progress, "restore", started, None)

    async def _unload(self, action: Unload) -> None:
        name, state = action.name, self._state
        async with self._unloading:
            if name not in state.desired.leaving and name not in state.view.trials:
                state.free(name)
                return
            started = self._begin(name)
            try:
                await self._engine.unload(name)
            except EngineError as error:
                fault = Fault(error.reason, error.message, error.permanent)
                before = replace(state.progress.get(name, Progress()), life=state.life)
                log.warning("adapter not unloaded adapter=%s reason=%s message=%s", name, error.reason, error)
                self._finish(name, self._failed(before, fault), "unload", started, fault)
                return
        await self._looks.look()
        log.info("adapter unloaded adapter=%s", name)
        after: Progress | None = None
        if name in state.desired.unloaded:
            # How often it came back is what tells how long to wait the next time.
            before = state.progress.get(name, Progress())
            after = replace(before, life=state.life, fault=None, not_before=0.0, right_since=started)
        self._finish(name, after, "unload", started, None)

    async def _loaded(self, wanted: Wanted, call: Awaitable[Loaded]) -> EngineError | None:
        """Await a load and note what the engine evicted for it, before a look misses that; return why it failed."""
        try:
            loaded = await call
        except EngineError as error:
            return error
        for name in loaded.evicted:
            self.evicted(name, wanted.name)
        return None

    def _begin(self, name: str) -> float:
        """Note that the engine is asked now, so that a plan can tell when that takes long."""
        self._changed()
        self._waiting.pop(name, None)
        self._state.began[name] = time.monotonic()
        return self._state.began[name]

    def _still(self, wanted: Wanted) -> Wanted | None:
        """Return what waited for its turn as it is wanted by now; None: not at all, or it is something else."""
        now = self._state.desired.wanted.get(wanted.name)
        same = now is not None and (now.path, now.revision) == (wanted.path, wanted.revision)
        return now if same else None

    def _progress(self, wanted: Wanted) -> Progress:
        return current(self._state.progress.get(wanted.name), wanted, self._state.life)

    def _failed(self, progress: Progress, fault: Fault) -> Progress:
        return after_fault(progress, fault, time.monotonic(), self._rng.random())

    def _finish(
        self, name: str, progress: Progress | None, operation: str, started: float, fault: Fault | None
    ) -> None:
        """End a call to the engine: free the name, keep its progress, count it."""
        self._state.free(name)
        if progress is None:
            self._state.progress.pop(name, None)
        else:
            self._state.progress[name] = progress
        outcome, reason = ("ok", "") if fault is None else ("permanent" if fault.permanent else "retry", fault.reason)
        self._count(Attempt(operation, outcome, str(reason), time.monotonic() - started))


def _has(view: EngineView, wanted: Wanted) -> bool:
    """Whether the engine lists the wanted path, whatever revision was there."""
    return holds(replace(wanted, revision=None), (view.adapters or {}).get(wanted.name))


def _unverified(view: EngineView, wanted: Wanted) -> EngineError | None:
    if view.adapters is None:
        return RetryableError(FaultReason.UNREACHABLE, f"Loaded, but the list can not be read: {view.problem}")
    if not _has(view, wanted):
        return RetryableError(FaultReason.NOT_LISTED, "The engine said that it loaded it, and does not list it.")
    return None


def _words(error: EngineError, wanted: Wanted, seen: Seen) -> str:
    """Return the engine's words, as somebody can use them who ordered an adapter and knows of no trial."""
    words = error.message.replace(trial_name(wanted.name, wanted.path), wanted.name)
    if seen.is_file:
        return f"{wanted.path} is a file; lora_path has to be the folder that has {CONFIG} in it. {words}"
    return words


def _broken(error: Exception, operation: str, name: str) -> Fault:
    """Return the fault of an attempt that ended in an error which nobody foresaw."""
    log.error("adapter %s broke adapter=%s", operation, name, exc_info=error)
    words = f"The sidecar broke on it ({type(error).__name__}: {str(error)[:500]}); its log has more."
    if isinstance(error, OSError):
        words = f"Its files can not be used: {error.strerror or error}."
    # A disk may come back; a fault of the sidecar's own is there the next time, too.
    return Fault(
        "FilesUnusable" if isinstance(error, OSError) else "InternalError", words, not isinstance(error, OSError)
    )

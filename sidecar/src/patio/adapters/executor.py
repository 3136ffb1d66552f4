"""Carries out the actions of a plan, each in a task of its own, so that a slow or bad adapter delays no other.

`reconciler` starts the actions and is called back after every change. Few calls are made to the engine at once, since
it makes them one after the other anyway, and those that wait hold no connection. Every error is a fault of the one
adapter, with a pause before the next attempt; it never ends the process. Only the engine's own list makes an adapter
`Loaded`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from patio.adapters.commits import Commits
from patio.adapters.desired import AdapterSpec, Key, Slot, with_fetched, with_loaded
from patio.adapters.engine_monitor import EngineMonitor
from patio.adapters.fetching import Fetcher, config_of
from patio.adapters.fingerprints import CONFIG, Fingerprints, FolderContents, FolderUnresponsiveError
from patio.adapters.observation import Event, evict
from patio.adapters.plan import Action, Fetch, Load, Reload, Restore, Unload
from patio.adapters.progress import (
    Progress,
    after_call,
    after_fetch,
    after_rejection,
    after_restore,
    after_success,
)
from patio.adapters.snapshot import (
    AdapterSnapshot,
    State,
    holds,
    is_outdated,
    with_asked,
    with_base_model,
    with_ended,
    with_progress,
    with_started,
)
from patio.engine.base import Engine, EngineError, EngineReason, EngineView, Loaded, RetryableError, trial_name
from patio.rejection import Rejection
from patio_protocol.downloads import DownloadReason

log = logging.getLogger(__name__)

LOADS_AT_ONCE = 4
UNLOADS_AT_ONCE = 4
"""Calls to the engine at once."""
MOST_RUNNING = {"load": 48, "unload": 32, "fetch": 40, "prepare": 40}
"""How many actions of a kind run at once; the others are planned again. Together the last two are fewer than downloads
may be."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One load, reload, restore or unload, as it ended: what the sidecar's metrics count."""

    operation: str
    outcome: str
    reason: str
    seconds: float


class Executor:
    """The running actions for the adapters of one pod."""

    def __init__(
        self,
        engine: Engine,
        fetcher: Fetcher,
        state: State,
        commits: Commits,
        monitor: EngineMonitor,
        fingerprints: Fingerprints,
        *,
        rng: random.Random,
        count: Callable[[Attempt], None],
        changed: Callable[[], None],
    ) -> None:
        """`count` is called with every attempt, `changed` whenever there may be something new to plan."""
        self._engine = engine
        self._fetcher = fetcher
        self._state = state
        self._commits = commits
        self._monitor = monitor
        self._fingerprints = fingerprints
        self._rng = rng
        self._count = count
        self._changed = changed
        self._loading = asyncio.Semaphore(LOADS_AT_ONCE)
        self._unloading = asyncio.Semaphore(UNLOADS_AT_ONCE)
        self._cancellable: dict[Key, asyncio.Task[None]] = {}
        """Fetches, and loads that have not asked the engine yet."""

    def start(self, action: Action, tasks: asyncio.TaskGroup) -> bool:
        """Start an action, unless too many of its kind are running; return whether it was started."""
        kind = _kind(action)
        same_kind = sum(_kind(other) == kind for other in self._snapshot.running.values())
        if same_kind >= MOST_RUNNING[kind]:
            return False
        operation = kind if isinstance(action, Fetch) else type(action).__name__.lower()
        log.info("adapter %s adapter=%s reason=%s", operation, action.key[0], action.reason)
        self._state.apply(with_started, action)
        task = tasks.create_task(self._guarded(action, operation), name=f"{operation} {action.key[0]}")
        if not isinstance(action, Unload):
            self._cancellable[action.key] = task
        return True

    def cancel_outdated(self, keys: Iterable[Key]) -> None:
        """Cancel what was not asked of the engine yet, for adapters that are no longer desired as they were."""
        for key in keys:
            action = self._snapshot.running.get(key)
            if action is None or key not in self._cancellable:
                continue
            if is_outdated(self._snapshot, action) or (
                isinstance(action, Load | Reload | Restore) and self._unchanged_spec(action.spec) is None
            ):
                self.cancel(key)

    def cancel(self, key: Key) -> None:
        """Cancel the running action for a key, unless the engine was asked to do it."""
        if key in self._cancellable:
            self._cancellable.pop(key).cancel()
            self._state.apply(with_ended, key)
            self._changed()

    def log_events(self, events: Iterable[Event]) -> None:
        """Write events into the log."""
        for event in events:
            log.log(event.level, event.format, *event.args)

    @property
    def _snapshot(self) -> AdapterSnapshot:
        return self._state.snapshot

    async def _guarded(self, action: Action, operation: str) -> None:
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
            rejection = _internal_error(error, operation, action.key[0])
            self._end(action.key, self._failed(self._progress_of(action), rejection))
        self._cancellable.pop(action.key, None)
        self._changed()

    async def _fetch(self, action: Fetch) -> None:
        """Download the files of an origin."""
        spec, origin, progress = action.spec, action.spec.origin, self._progress_of(action)
        assert origin is not None
        config = config_of(origin, self._snapshot.credentials.get(action.key, {}))
        report = await self._fetcher.fetch(origin.source, config, origin.output_dir, origin.max_workers)
        rejection: Rejection | None = None
        if report.folder is None:
            rejection = Rejection(DownloadReason.CANCELLED, "The download was cancelled.", retryable=True)
            if report.error is not None:
                rejection = Rejection(report.error.code, report.error.message, retryable=report.error.retryable)
            log.warning(
                "adapter not fetched adapter=%s reason=%s message=%s", spec.name, rejection.reason, rejection.message
            )
            self._end(action.key, self._failed(progress, rejection))
            return
        log.info("adapter fetched adapter=%s folder=%s", spec.name, report.folder)
        if action.slot is Slot.STAGED and not await self._fetcher.pin(report.folder):
            message = f"{report.folder} was evicted from the cache right after the download to free disk space."
            rejection = Rejection(DownloadReason.NO_SPACE, message, retryable=True)
            self._end(action.key, self._failed(progress, rejection))
            return
        folder = report.folder
        self._commits.learn(lambda desired: with_fetched(desired, spec, folder))
        self._end(action.key, after_fetch(progress))

    async def _load(self, action: Load | Reload) -> None:
        spec, operation = action.spec, type(action).__name__.lower()
        started = time.monotonic()
        try:
            contents = await self._fingerprints.attempt(spec.name, spec.path)
        except FolderUnresponsiveError:
            # The engine would hang in it too, with every other adapter.
            rejection = Rejection(
                "FolderUnresponsive", f"The file system of {spec.path} does not answer.", retryable=True
            )
            self._finish(action.key, self._failed(self._progress_of(action), rejection), operation, started, rejection)
            return
        if spec.origin is not None and not await self._fetcher.pin(spec.path):
            log.info("adapter files missing adapter=%s folder=%s", spec.name, spec.path)
            self._commits.learn(lambda desired: with_fetched(desired, spec, ""))
            self._state.apply(with_ended, action.key)
            return
        self._state.apply(with_base_model, spec.path, contents.base_model)
        async with self._loading:
            current = self._unchanged_spec(spec)
            if current is None:
                self._state.apply(with_ended, action.key)
                return
            progress = after_call(self._snapshot.progress_of(current))
            started = self._ask(action.key, progress)
            previous_path = (self._snapshot.view.adapters or {}).get(current.name)
            call = self._engine.load if isinstance(action, Load) else self._engine.replace
            error = await self._loaded(current, call(current.name, current.path))
        # What the engine has under the name now is what the next step depends on, also after an error.
        view = await self._monitor.poll()
        if error is not None and not error.permanent and previous_path != current.path and _lists(view, current):
            log.info("adapter loaded despite an error adapter=%s message=%s", current.name, error)
            error = None
        elif error is None:
            error = _unverified(view, current)
        if error is not None:
            rejection = Rejection(error.reason, _message_of(error, current, contents), retryable=not error.permanent)
            level = logging.WARNING if error.permanent else logging.INFO
            log.log(level, "adapter not loaded adapter=%s reason=%s message=%s", current.name, error.reason, error)
            self._finish(action.key, self._failed(progress, rejection), operation, started, rejection)
            return
        self._fingerprints.forget(current.name)
        loaded = current
        self._commits.learn(lambda desired: with_loaded(desired, loaded))
        log.info("adapter loaded adapter=%s path=%s revision=%s", current.name, current.path, current.revision)
        self._finish(action.key, after_success(progress, time.monotonic()), operation, started, None)

    async def _restore(self, action: Restore) -> None:
        spec = action.spec
        assert spec.held is not None
        async with self._loading:
            if self._unchanged_spec(spec) is None:
                self._state.apply(with_ended, action.key)
                return
            progress = after_restore(self._progress_of(action))
            started = self._ask(action.key, progress)
            error = await self._loaded(spec, self._engine.load(spec.name, spec.held.path))
        if error is not None:
            log.warning("adapter not restored adapter=%s reason=%s message=%s", spec.name, error.reason, error)
            rejection = Rejection(error.reason, error.message, retryable=not error.permanent)
            self._finish(action.key, progress, "restore", started, rejection)
            return
        await self._monitor.poll()
        log.info("adapter restored adapter=%s path=%s", spec.name, spec.held.path)
        self._finish(action.key, progress, "restore", started, None)

    async def _unload(self, action: Unload) -> None:
        name, key = action.name, action.key
        async with self._unloading:
            if name not in self._snapshot.desired.leaving and name not in self._snapshot.view.trials:
                self._state.apply(with_ended, key)
                return
            started = self._ask(key, self._snapshot.progress.get(key))
            try:
                await self._engine.unload(name)
            except EngineError as error:
                rejection = Rejection(error.reason, error.message, retryable=not error.permanent)
                log.warning("adapter not unloaded adapter=%s reason=%s message=%s", name, error.reason, error)
                self._finish(key, self._failed(self._progress_of(action), rejection), "unload", started, rejection)
                return
        await self._monitor.poll()
        log.info("adapter unloaded adapter=%s", name)
        progress: Progress | None = None
        if name in self._snapshot.desired.unloaded:
            # How often it came back decides how long to wait the next time.
            progress = replace(self._progress_of(action), rejection=None, not_before=0.0, right_since=started)
        self._finish(key, progress, "unload", started, None)

    async def _loaded(self, spec: AdapterSpec, call: Awaitable[Loaded]) -> EngineError | None:
        """Await a load and note what the engine evicted for it, before a poll misses that; return why it failed."""
        try:
            loaded = await call
        except EngineError as error:
            return error
        for name in loaded.evicted:
            self._state.snapshot, events = evict(self._snapshot, name, spec.name, time.monotonic(), self._rng.random())
            self.log_events(events)
        return None

    def _ask(self, key: Key, progress: Progress | None) -> float:
        """Note that the engine is asked now, so that a plan can say when it takes long. It cannot be cancelled now."""
        self._cancellable.pop(key, None)
        now = time.monotonic()
        self._state.apply(with_progress, key, progress)
        self._state.apply(with_asked, key, now)
        self._changed()
        return now

    def _unchanged_spec(self, spec: AdapterSpec) -> AdapterSpec | None:
        """Return what waited for its turn as it is desired by now; None: not at all, or it is something else."""
        current = self._snapshot.desired.spec(spec.name)
        same = current is not None and (current.path, current.revision) == (spec.path, spec.revision)
        return current if same else None

    def _progress_of(self, action: Action) -> Progress:
        if isinstance(action, Unload):
            return replace(self._snapshot.progress.get(action.key, Progress()), life=self._snapshot.life)
        return self._snapshot.progress_of(action.spec, action.key[1])

    def _failed(self, progress: Progress, rejection: Rejection) -> Progress:
        return after_rejection(progress, rejection, time.monotonic(), self._rng.random())

    def _end(self, key: Key, progress: Progress | None) -> None:
        """End an action: free its key, keep its progress."""
        self._state.apply(with_ended, key)
        self._state.apply(with_progress, key, progress)

    def _finish(
        self, key: Key, progress: Progress | None, operation: str, started: float, rejection: Rejection | None
    ) -> None:
        """End a call to the engine, and count it."""
        self._end(key, progress)
        outcome = "ok" if rejection is None else "retry" if rejection.retryable else "permanent"
        reason = "" if rejection is None else rejection.reason
        self._count(Attempt(operation, outcome, str(reason), time.monotonic() - started))


def _kind(action: Action) -> str:
    """Return of what there is a limit."""
    if isinstance(action, Fetch):
        return "fetch" if action.slot is Slot.ACTIVE else "prepare"
    return "unload" if isinstance(action, Unload) else "load"


def _lists(view: EngineView, spec: AdapterSpec) -> bool:
    """Whether the engine lists the desired path, whatever revision was there."""
    return holds(replace(spec, revision=None), (view.adapters or {}).get(spec.name))


def _unverified(view: EngineView, spec: AdapterSpec) -> EngineError | None:
    if view.adapters is None:
        return RetryableError(
            EngineReason.UNREACHABLE, f"The engine accepted the load, but its list cannot be read: {view.problem}"
        )
    if not _lists(view, spec):
        return RetryableError(EngineReason.NOT_LISTED, "The engine accepted the load, but does not list the adapter.")
    return None


def _message_of(error: EngineError, spec: AdapterSpec, contents: FolderContents) -> str:
    """Return the engine's message, in terms of the ordered adapter instead of its trial."""
    message = error.message.replace(trial_name(spec.name, spec.path), spec.name)
    if contents.is_file:
        return f"{spec.path} is a file. lora_path must be the folder that contains {CONFIG}. {message}"
    return message


def _internal_error(error: Exception, operation: str, name: str) -> Rejection:
    """Return the rejection of an attempt that ended in an unforeseen error."""
    log.error("adapter %s failed unexpectedly adapter=%s", operation, name, exc_info=error)
    message = f"An internal error occurred ({type(error).__name__}: {str(error)[:500]}). The sidecar's log has more."
    if isinstance(error, OSError):
        message = f"The adapter's files cannot be used: {error.strerror or error}."
    # A disk may come back; an error of the sidecar itself is there the next time, too.
    of_disk = isinstance(error, OSError)
    return Rejection("FilesUnusable" if of_disk else "InternalError", message, retryable=of_disk)

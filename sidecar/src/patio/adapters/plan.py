"""What to do next, from what is wanted, what the engine lists, and how earlier attempts went. Pure.

The reconciler builds a `Situation`, `plan` answers with actions and the report that the API shows, both from the same
look. `after_*` are the rules by which an attempt's outcome becomes the wait before the next one. Clocks, dice and the
engine are the caller's.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from patio.adapters.desired import Desired, Wanted
from patio.api.downloads_protocol import DownloadReason
from patio.api.protocol import AdapterReport, AdapterState
from patio.engine.base import EngineView, FaultReason
from patio.pauses import growing, spread

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
FIRST_LOSS_PAUSE = 2.0
SLOW_RETRY = 300.0
"""Seconds before what failed for good is tried all the same: something out of the sidecar's sight may have changed."""
PATIENCE = 6
"""Attempts in a row after which a fault that should have passed counts as settled, so that it holds no pod back."""
STEADY = 60.0
"""Seconds in the engine's list after which an adapter that vanished earlier is forgiven."""

UNSEEN = EngineView(ready=False, adapters=None)
"""The view before the first look."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the last attempt failed."""

    reason: FaultReason | str
    """The engine's, or what whoever fetches files calls it."""
    message: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How it went so far with one name, in one order and one life of the engine."""

    order: int = 0
    life: int = 0
    calls: int = 0
    """Load calls for the wanted weights, over all orders and lives."""
    failures: int = 0
    """In a row."""
    losses: int = 0
    """Times that it vanished from the list of an engine that stayed up."""
    fault: Fault | None = None
    not_before: float = 0.0
    weights: tuple[str, str | None] | None = None
    """Path and revision that `calls` counts."""
    loaded_at: float | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring the files of an origin to disk, whatever the engine is doing."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True, slots=True)
class Load:
    """Load an adapter under a free name."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True, slots=True)
class Reload:
    """Put the wanted weights under a name that holds others."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Make the engine let go of a name."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for a name before a moment."""

    name: str
    until: float
    reason: str


Action = Fetch | Load | Reload | Unload
"""What is done, each in a task of its own."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a plan is made from."""

    desired: Desired
    view: EngineView = UNSEEN
    life: int = 0
    """Counts the times that the engine came up."""
    progress: Mapping[str, Progress] = field(default_factory=dict)
    busy: Mapping[str, Action] = field(default_factory=dict)
    """What is under way, by name."""
    changed: frozenset[str] = frozenset()
    """Names whose files changed since their last attempt, and have come to rest."""
    credentials: frozenset[str] = frozenset()
    """Names whose credentials are at hand; they do not survive a restart of the sidecar."""
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, what to wait for, and how things stand before it is done."""

    actions: tuple[Action, ...]
    waits: tuple[Wait, ...]
    reports: tuple[AdapterReport, ...]


@dataclass(frozen=True, slots=True)
class _Standing:
    """How one wanted adapter stands, and what follows."""

    state: AdapterState
    reason: str
    message: str = ""
    retryable: bool = True
    then: Action | Wait | None = None


def plan(situation: Situation) -> Plan:
    """Return what to do next. No action for a name that is settled, waiting or busy."""
    actions: list[Action] = []
    waits: list[Wait] = []
    reports: list[AdapterReport] = []
    listed = situation.view.adapters or {}
    for name in sorted(situation.desired.wanted.keys() | situation.desired.leaving | listed.keys()):
        wanted = situation.desired.wanted.get(name)
        if wanted is not None:
            standing = _wanted(situation, wanted, listed.get(name))
        elif name in situation.desired.leaving:
            standing = _leaving(situation, name)
        else:
            words = "The engine has it; nobody asked this sidecar for it, so it is left alone."
            standing = _Standing(AdapterState.LOADED, "LoadedInEngine", words)
        if isinstance(standing.then, Wait):
            waits.append(standing.then)
        elif standing.then is not None:
            actions.append(standing.then)
        reports.append(_report(situation, name, wanted, standing))
    return Plan(tuple(actions), tuple(waits), tuple(reports))


def gone(situation: Situation) -> frozenset[str]:
    """Return the names on their way out that have arrived: not listed, or the engine is no more."""
    if not situation.view.listening:
        return situation.desired.leaving
    if situation.view.adapters is None:
        return frozenset()
    return situation.desired.leaving - situation.view.adapters.keys() - situation.busy.keys()


def lost(situation: Situation, view: EngineView) -> frozenset[str]:
    """Return what was loaded and is missing from the next view, though the engine stayed up and nobody is at it."""
    before, after = situation.view.adapters, view.adapters
    if before is None or after is None:
        return frozenset()
    return frozenset(
        name
        for name, wanted in situation.desired.wanted.items()
        if name not in after and name not in situation.busy and holds(wanted, before.get(name))
    )


def holds(wanted: Wanted, path: str | None) -> bool:
    """Whether the engine, listing this path under the name, has the weights that are wanted."""
    if path is None or posixpath.normpath(path) != posixpath.normpath(wanted.path):
        return False
    # The list tells paths, not revisions: a revision is there if the sidecar saw the engine take it.
    return wanted.revision is None or (wanted.held is not None and wanted.held.revision == wanted.revision)


def settled(desired: Desired, reports: tuple[AdapterReport, ...], view: EngineView) -> tuple[str, ...]:
    """Return what the pod's readiness waits for, in words; empty when the adapters hold nothing back.

    A bad adapter must not take the base model down, so Failed counts. One that is swapped for another revision goes on
    answering, so it holds nothing back while the engine lists its name.
    """
    listed = view.adapters or {}
    waiting: list[str] = []
    for report in reports:
        wanted = desired.wanted.get(report.lora_name)
        if wanted is None or not wanted.gating or report.state in (AdapterState.LOADED, AdapterState.FAILED):
            continue
        if wanted.served and report.lora_name in listed:
            continue
        waiting.append(f"adapter {report.lora_name} is {report.state}: {report.message or report.reason}")
    return tuple(waiting)


def current(progress: Progress | None, wanted: Wanted, life: int) -> Progress:
    """Return the progress that still counts: a new order or a new life of the engine forgives all failures."""
    weights = (wanted.path, wanted.revision)
    if progress is None:
        return Progress(wanted.order, life, weights=weights)
    calls = progress.calls if progress.weights == weights else 0
    if progress.order == wanted.order and progress.life == life:
        return replace(progress, calls=calls, weights=weights)
    return Progress(wanted.order, life, calls=calls, weights=weights)


def after_call(progress: Progress) -> Progress:
    """Count a call that is about to be made."""
    return replace(progress, calls=progress.calls + 1)


def after_success(progress: Progress, now: float) -> Progress:
    """Forget the failures."""
    return replace(progress, failures=0, fault=None, not_before=0.0, loaded_at=now)


def after_fetch(progress: Progress) -> Progress:
    """Forget the failures of fetching: loading is another matter."""
    return replace(progress, failures=0, fault=None, not_before=0.0)


def after_fault(progress: Progress, fault: Fault, now: float, jitter: float) -> Progress:
    """Wait longer after every failure in a row. `jitter` is between 0 and 1."""
    failures = progress.failures + 1
    pause = SLOW_RETRY if fault.permanent else growing(FIRST_PAUSE, LONGEST_PAUSE, failures)
    return replace(progress, failures=failures, fault=fault, not_before=now + spread(pause, jitter), loaded_at=None)


def after_loss(progress: Progress, now: float, jitter: float) -> Progress:
    """Load at once what vanished once, and ever later what keeps vanishing: engines that evict must not be fought."""
    forgiven = progress.loaded_at is not None and now - progress.loaded_at > STEADY
    losses = 1 if forgiven else progress.losses + 1
    pause = 0.0 if losses == 1 else growing(FIRST_LOSS_PAUSE, SLOW_RETRY, losses)
    return replace(progress, losses=losses, not_before=now + spread(pause, jitter), loaded_at=None)


def _wanted(situation: Situation, wanted: Wanted, path: str | None) -> _Standing:
    name, view = wanted.name, situation.view
    progress = current(situation.progress.get(name), wanted, situation.life)
    busy = situation.busy.get(name)
    if wanted.fetching or isinstance(busy, Fetch):
        return _fetching(situation, wanted, progress, busy)
    if busy is not None:
        # Until a retry is over, what is known is that it failed: readiness must not flap with every try.
        return _failed(progress) or _Standing(AdapterState.LOADING, "Loading", busy.reason)
    if not view.ready:
        return _Standing(AdapterState.PENDING, "EngineNotReady", view.problem or "The engine was not asked yet.")
    if view.adapters is None:
        if view.fault is not None and view.fault.permanent:
            return _Standing(AdapterState.FAILED, view.fault.reason, view.problem, retryable=False)
        return _Standing(AdapterState.PENDING, "ListUnreadable", view.problem)
    if holds(wanted, path):
        return _Standing(AdapterState.LOADED, "Loaded")
    if situation.now < progress.not_before and name not in situation.changed:
        return replace(_failed(progress) or _pausing(progress), then=_wait(name, progress))
    why = _why(situation, wanted, path, progress)
    action = Load(wanted, why) if path is None else Reload(wanted, why)
    return replace(_failed(progress) or _Standing(AdapterState.PENDING, "Queued", why), then=action)


def _fetching(situation: Situation, wanted: Wanted, progress: Progress, busy: Action | None) -> _Standing:
    """Return how an adapter stands whose files are not there; the engine has no say in that."""
    assert wanted.origin is not None
    if isinstance(busy, Fetch):
        return _failed(progress) or _Standing(AdapterState.DOWNLOADING, "Downloading", busy.reason)
    if busy is not None:
        return _Standing(AdapterState.PENDING, "Queued", f"Waiting for what is under way: {busy.reason}")
    if wanted.origin.secrets and wanted.name not in situation.credentials:
        words = (
            f"The credentials for {wanted.origin.uri} ({', '.join(wanted.origin.secrets)}) came with an order and are "
            "never stored; the sidecar was restarted since. Order it again with them, or give them by variables."
        )
        return _Standing(AdapterState.FAILED, DownloadReason.CREDENTIALS_MISSING, words)
    if situation.now < progress.not_before:
        return replace(_failed(progress) or _pausing(progress), then=_wait(wanted.name, progress))
    why = f"Its files are fetched from {wanted.origin.uri}."
    if progress.fault is not None:
        why = f"Trying again after: {progress.fault.message}"
    return replace(_failed(progress) or _Standing(AdapterState.PENDING, "Queued", why), then=Fetch(wanted, why))


def _failed(progress: Progress) -> _Standing | None:
    """Return the standing of what counts as failed: refused for good, or failing for too long."""
    fault = progress.fault
    if fault is None or not (fault.permanent or progress.failures >= PATIENCE):
        return None
    return _Standing(AdapterState.FAILED, fault.reason, fault.message, retryable=not fault.permanent)


def _pausing(progress: Progress) -> _Standing:
    if progress.fault is None:
        words = "It vanished from the engine's list more than once; it is loaded again after a pause."
        return _Standing(AdapterState.PENDING, "Lost", words)
    return _Standing(AdapterState.PENDING, progress.fault.reason, progress.fault.message)


def _wait(name: str, progress: Progress) -> Wait:
    why = "it vanished from the engine's list" if progress.fault is None else progress.fault.message
    return Wait(name, progress.not_before, why)


def _why(situation: Situation, wanted: Wanted, path: str | None, progress: Progress) -> str:
    if progress.fault is not None:
        if wanted.name in situation.changed:
            return f"The files under {wanted.path} changed since the engine refused them."
        return f"Trying again after: {progress.fault.message}"
    if path is not None and posixpath.normpath(path) != posixpath.normpath(wanted.path):
        return f"The engine has {path} under this name; {wanted.path} is wanted."
    if path is not None:
        return f"Revision {wanted.revision} is wanted, from the same path."
    if wanted.served:
        return "It was loaded here before and the engine no longer lists it."
    return "It is wanted and the engine does not list it."


def _leaving(situation: Situation, name: str) -> _Standing:
    if name in situation.busy:
        return _Standing(AdapterState.UNLOADING, "Unloading", situation.busy[name].reason)
    progress = situation.progress.get(name, Progress())
    fault = progress.fault if progress.life == situation.life else None
    if situation.view.adapters is None or not situation.view.ready:
        return _Standing(AdapterState.UNLOADING, "EngineNotReady", situation.view.problem)
    if fault is not None and situation.now < progress.not_before:
        return _Standing(
            AdapterState.UNLOADING, fault.reason, fault.message, not fault.permanent, _wait(name, progress)
        )
    if name not in situation.view.adapters:
        return _Standing(AdapterState.UNLOADING, "Unloaded", "The engine no longer lists it.")
    action = Unload(name, "It is no longer wanted.")
    return _Standing(AdapterState.UNLOADING, "Unloading", action.reason, then=action)


def _report(situation: Situation, name: str, wanted: Wanted | None, standing: _Standing) -> AdapterReport:
    listed = (situation.view.adapters or {}).get(name)
    progress = None if wanted is None else current(situation.progress.get(name), wanted, situation.life)
    return AdapterReport(
        lora_name=name,
        lora_path=listed if wanted is None else wanted.path or None,
        source=None if wanted is None or wanted.origin is None else wanted.origin.uri,
        owner=None if wanted is None else wanted.owner,
        revision=None if wanted is None else wanted.revision,
        required=wanted is not None and wanted.required,
        state=standing.state,
        reason=str(standing.reason),
        message=standing.message,
        retryable=standing.retryable,
        attempts=0 if progress is None else progress.calls,
        since=0.0,
    )

"""What to do next, from what is wanted, what the engine lists, and how earlier attempts went. Pure.

From a `Situation` to actions and the report that the API shows, both from the same look. What is fetched ahead is
`prepare`'s part of the plan; pauses are `progress`'s. Clocks, dice and the engine are the caller's.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace

from patio.adapters.desired import Wanted
from patio.adapters.prepare import credentials_awaited, plan_ahead, will_come
from patio.adapters.progress import PATIENCE, Progress, calls_for, current
from patio.adapters.situation import (
    Action,
    Fetch,
    Load,
    Plan,
    Prepare,
    Reload,
    Restore,
    Situation,
    Unload,
    Wait,
)
from patio.engine.base import EngineView, FaultReason, trial_name
from patio_protocol.adapters import AdapterReport, AdapterState, PreparedReport, PreparedState
from patio_protocol.downloads import DownloadReason


@dataclass(frozen=True, slots=True)
class _Standing:
    """How one adapter stands, and what follows."""

    state: AdapterState
    reason: str
    message: str = ""
    retryable: bool = True
    then: Action | Wait | None = None


_LOADED = _Standing(AdapterState.LOADED, "Loaded")

SLOW = 2.0
"""Seconds after which a report says that the engine has not answered yet, and why where that is known."""


def plan(situation: Situation) -> Plan:
    """Return what to do next. No action for a name that is settled, waiting or busy."""
    desired = situation.desired
    listed = situation.view.adapters or {}
    names = sorted(desired.wanted.keys() | desired.prepared.keys() | desired.leaving | listed.keys())
    todo, reports = _planned(situation, names)
    todo += _trials(situation)
    slow = {name: began + SLOW for name, began in situation.began.items() if situation.now < began + SLOW}
    todo += [Wait(name, until, "it is under way") for name, until in slow.items()]
    return Plan(
        actions=tuple(one for one in todo if not isinstance(one, Wait)),
        waits=tuple(one for one in todo if isinstance(one, Wait)),
        reports=tuple(reports),
    )


def reports_of(situation: Situation, names: Iterable[str]) -> tuple[AdapterReport, ...]:
    """Return how some adapters stand."""
    return tuple(_planned(situation, names)[1])


def _planned(situation: Situation, names: Iterable[str]) -> tuple[list[Action | Prepare | Wait], list[AdapterReport]]:
    todo: list[Action | Prepare | Wait] = []
    reports: list[AdapterReport] = []
    fitting = _fitting(situation)
    serving = frozenset(_short_names(situation.view))
    for name in names:
        ahead = situation.desired.prepared.get(name)
        prepared, prepare = (None, None) if ahead is None else plan_ahead(situation, ahead)
        standing = _standing(situation, name, prepared, fitting, serving)
        if standing.then is not None:
            todo.append(standing.then)
        if prepare is not None:
            todo.append(prepare)
        reports.append(_report(situation, name, standing, prepared))
    return todo, reports


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
    if path is None or not _same(path, wanted.path):
        return False
    # The list tells paths, not revisions: a revision is there if the sidecar saw the engine take it.
    return wanted.revision is None or (wanted.held is not None and wanted.held.revision == wanted.revision)


def _same(path: str, other: str) -> bool:
    return path == other or posixpath.normpath(path) == posixpath.normpath(other)


def recovered(situation: Situation, view: EngineView) -> frozenset[str]:
    """Return what had failed and is there all the same: an answer was lost, or a request had the engine load it."""
    listed = view.adapters or {}
    return frozenset(
        name
        for name, progress in situation.progress.items()
        if progress.fault is not None
        and name not in situation.busy
        and (wanted := situation.desired.wanted.get(name)) is not None
        and holds(wanted, listed.get(name))
    )


def full(view: EngineView, limit: int | None) -> bool:
    """Whether an adapter that is missing from this view had to make room: loading it again would evict another."""
    return limit is not None and view.adapters is not None and len(view.adapters) + len(view.trials) >= limit


def settled(situation: Situation, reports: tuple[AdapterReport, ...]) -> tuple[str, ...]:
    """Return what the pod's readiness waits for, in words; empty when the adapters hold nothing back.

    A bad adapter must not take the base model down, so Failed counts. One that is swapped for another revision holds
    nothing back, though it is away for the moment between the two.
    """
    listed = situation.view.adapters or {}
    waiting: list[str] = []
    for report in reports:
        wanted = situation.desired.wanted.get(report.lora_name)
        if wanted is None or not wanted.gating or report.state in (AdapterState.LOADED, AdapterState.FAILED):
            continue
        swapped = isinstance(situation.busy.get(wanted.name), Reload)
        if wanted.served and (swapped or wanted.name in listed):
            continue
        waiting.append(f"adapter {report.lora_name} is {report.state}: {report.message or report.reason}")
    return tuple(waiting)


def _standing(
    situation: Situation,
    name: str,
    prepared: PreparedReport | None,
    fitting: frozenset[str],
    serving: frozenset[str],
) -> _Standing:
    listed = situation.view.adapters or {}
    wanted = situation.desired.wanted.get(name)
    if wanted is not None:
        standing = _wanted(situation, wanted, listed.get(name), name in fitting)
        doubt = _doubt(situation, wanted, serving) if standing.state is AdapterState.LOADED else ""
        return replace(standing, message=doubt) if doubt else standing
    if name in situation.desired.leaving:
        return _leaving(situation, name)
    if name in listed:
        words = "The engine has it; nobody asked this sidecar for it, so it is left alone."
        return _Standing(AdapterState.LOADED, "LoadedInEngine", words)
    there = prepared is not None and prepared.state is PreparedState.PREPARED
    words = "Nobody wants it loaded yet; its files are fetched ahead."
    return _Standing(AdapterState.PENDING, "Prepared" if there else "Preparing", words)


def _trials(situation: Situation) -> list[Action | Prepare | Wait]:
    """Return what takes away the trials that nobody is at any more: a reload broke off, or the sidecar died."""
    swaps = [action.wanted for action in situation.busy.values() if isinstance(action, Reload)]
    under_way = {trial_name(wanted.name, wanted.path) for wanted in swaps} | situation.busy.keys()
    todo: list[Action | Prepare | Wait] = []
    for name in sorted(situation.view.trials - under_way):
        progress = situation.progress.get(name, Progress())
        if progress.life == situation.life and situation.now < progress.not_before:
            todo.append(_wait(name, progress))
        else:
            todo.append(Unload(name, "It was a trial, and the trial is over."))
    return todo


def _wanted(situation: Situation, wanted: Wanted, path: str | None, fits: bool) -> _Standing:
    name, view = wanted.name, situation.view
    busy = situation.busy.get(name)
    if busy is None and not wanted.fetching and view.ready and view.adapters is not None and holds(wanted, path):
        return _LOADED
    progress = current(situation.progress.get(name), wanted, situation.life)
    if wanted.fetching or isinstance(busy, Fetch):
        return _fetching(situation, wanted, progress, busy)
    if busy is not None:
        # Until a retry is over, what is known is that it failed: readiness must not flap with every try.
        return _failed(progress) or _Standing(AdapterState.LOADING, "Loading", _under_way(situation, name, busy))
    if not view.ready:
        return _Standing(AdapterState.PENDING, "EngineNotReady", view.problem or "The engine was not asked yet.")
    if view.adapters is None:
        if view.fault is not None and view.fault.permanent:
            return _Standing(AdapterState.FAILED, view.fault.reason, view.problem, retryable=False)
        return _Standing(AdapterState.PENDING, "ListUnreadable", view.problem)
    if path is None and _restorable(wanted, progress):
        assert wanted.held is not None
        why = f"The weights from {wanted.held.path} answer again, since those wanted can not be loaded."
        return _then(_failed(progress) or _pausing(progress), Restore(wanted, why))
    if situation.now < progress.not_before and name not in situation.changed and not fits:
        return _then(_failed(progress) or _pausing(progress), _wait(name, progress))
    why = _why(situation, wanted, path, progress, fits)
    action = Load(wanted, why) if path is None else Reload(wanted, why)
    return _then(_failed(progress) or _Standing(AdapterState.PENDING, "Queued", why), action)


def _fetching(situation: Situation, wanted: Wanted, progress: Progress, busy: Action | None) -> _Standing:
    """Return how an adapter stands whose files are not there; the engine has no say in that."""
    assert wanted.origin is not None
    if isinstance(busy, Fetch):
        return _failed(progress) or _Standing(AdapterState.DOWNLOADING, "Downloading", busy.reason)
    if busy is not None:
        return _Standing(AdapterState.PENDING, "Queued", f"Waiting for what is under way: {busy.reason}")
    words = credentials_awaited(wanted, wanted.name in situation.credentials)
    if words is not None:
        state = AdapterState.PENDING if will_come(wanted) else AdapterState.FAILED
        return _Standing(state, DownloadReason.CREDENTIALS_MISSING, words)
    if situation.now < progress.not_before:
        return _then(_failed(progress) or _pausing(progress), _wait(wanted.name, progress))
    why = f"Its files are fetched from {wanted.origin.uri}."
    if progress.fault is not None:
        why = f"Trying again after: {progress.fault.message}"
    return _then(_failed(progress) or _Standing(AdapterState.PENDING, "Queued", why), Fetch(wanted, why))


def _then(standing: _Standing, then: Action | Wait) -> _Standing:
    """Return a standing from which something follows. Not by `replace`, which costs as much as all the rest."""
    return _Standing(standing.state, standing.reason, standing.message, standing.retryable, then)


def _failed(progress: Progress) -> _Standing | None:
    """Return the standing of what counts as failed: refused for good, or failing for too long."""
    fault = progress.fault
    if fault is None or not (fault.permanent or progress.failures >= PATIENCE):
        return None
    return _Standing(AdapterState.FAILED, fault.reason, fault.message, retryable=not fault.permanent)


def _fitting(situation: Situation) -> frozenset[str]:
    """Return which of the adapters that were evicted have a free place by now, so that loading them evicts nobody."""
    if situation.limit is None:
        return frozenset()
    listed = (situation.view.adapters or {}).keys() | situation.view.trials | situation.busy.keys()
    evicted = sorted(
        name
        for name, progress in situation.progress.items()
        if name in situation.desired.wanted
        and name not in listed
        and progress.fault is not None
        and progress.fault.reason is FaultReason.EVICTED
    )
    return frozenset(evicted[: max(0, situation.limit - len(listed))])


def _restorable(wanted: Wanted, progress: Progress) -> bool:
    """Whether other weights were held under the name before, and were not tried since the wanted ones failed."""
    if progress.fault is None or progress.fault.reason is FaultReason.EVICTED or wanted.held is None:
        return False
    return not _same(wanted.held.path, wanted.path) and progress.restored < progress.failures


def _pausing(progress: Progress) -> _Standing:
    if progress.fault is None:
        words = "It vanished from the engine's list more than once; it is loaded again after a pause."
        return _Standing(AdapterState.PENDING, "Lost", words)
    return _Standing(AdapterState.PENDING, progress.fault.reason, progress.fault.message)


def _wait(name: str, progress: Progress) -> Wait:
    why = "it vanished from the engine's list" if progress.fault is None else progress.fault.message
    return Wait(name, progress.not_before, why)


def _why(situation: Situation, wanted: Wanted, path: str | None, progress: Progress, fits: bool) -> str:
    if progress.fault is not None:
        if fits:
            return "The engine evicted it, and has a free place again."
        if wanted.name in situation.changed:
            return f"The files under {wanted.path} changed since the engine refused them."
        return f"Trying again after: {progress.fault.message}"
    if path is not None and not _same(path, wanted.path):
        return f"The engine has {path} under this name; {wanted.path} is wanted."
    if path is not None:
        return f"Revision {wanted.revision} is wanted, from the same path."
    if wanted.served:
        return "It was loaded here before and the engine no longer lists it."
    return "It is wanted and the engine does not list it."


def _under_way(situation: Situation, name: str, busy: Action) -> str:
    """Return why something is done, and once it takes long, what it waits for."""
    began = situation.began.get(name)
    if began is None or situation.now < began + SLOW:
        return busy.reason
    listed = situation.view.adapters or {}
    # SGLang 0.5.23 strikes a name off its list before it waits for its requests.
    unloading = [
        (asked, one)
        for one, asked in situation.began.items()
        if isinstance(situation.busy[one], Unload | Reload) and one not in listed
    ]
    if not situation.unloads_wait or not unloading:
        return f"{busy.reason} The engine has not answered yet."
    _, first = min(unloading)
    if first == name:
        return (
            f"{busy.reason} The engine waits for the requests under way to {name}, and makes no other change until "
            "they have ended."
        )
    return (
        f"{busy.reason} The engine makes one change at a time, and waits for the requests under way to {first}, which "
        "it unloads."
    )


def _short_names(view: EngineView) -> list[str]:
    """Return what the engine's base model is called: the last parts of its served names and of its path."""
    return [_short(name) for name in (*view.base_models, *view.base_roots)]


def _short(model: str) -> str:
    """Return the last part of a model's name or path, in small letters."""
    parts = model.rstrip("/").split("/")
    # The Hub's cache: models--ORGANISATION--NAME/snapshots/COMMIT.
    cached = [part.rpartition("--")[2] for part in parts if part.startswith("models--")]
    return (cached or parts)[-1].lower()


def _doubt(situation: Situation, wanted: Wanted, serving: frozenset[str]) -> str:
    """Return what may be wrong with an adapter that the engine took; empty: nothing is known."""
    made_for = situation.made_for.get(wanted.path, "")
    if not made_for or not serving or _short(made_for) in serving:
        return ""
    return (
        f"Its adapter_config.json names {made_for} as its base model, and the engine serves "
        f"{', '.join(situation.view.base_models)}: an adapter of another model changes nothing, or harms the answers."
    )


def _leaving(situation: Situation, name: str) -> _Standing:
    if name in situation.busy:
        return _Standing(AdapterState.UNLOADING, "Unloading", _under_way(situation, name, situation.busy[name]))
    progress = situation.progress.get(name, Progress())
    fault = progress.fault if progress.life == situation.life else None
    if situation.view.adapters is None or not situation.view.ready:
        return _Standing(AdapterState.UNLOADING, "EngineNotReady", situation.view.problem)
    if progress.life == situation.life and situation.now < progress.not_before:
        if fault is None:
            words = "A request for it had the engine load it again after it was unloaded; it is unloaded after a pause."
            return _Standing(AdapterState.UNLOADING, "CameBack", words, then=_wait(name, progress))
        return _Standing(
            AdapterState.UNLOADING, fault.reason, fault.message, not fault.permanent, _wait(name, progress)
        )
    if name not in situation.view.adapters:
        return _Standing(AdapterState.UNLOADING, "Unloaded", "The engine no longer lists it.")
    action = Unload(name, "It is no longer wanted.")
    return _Standing(AdapterState.UNLOADING, "Unloading", action.reason, then=action)


def _report(situation: Situation, name: str, standing: _Standing, prepared: PreparedReport | None) -> AdapterReport:
    listed = (situation.view.adapters or {}).get(name)
    wanted, ahead = situation.desired.wanted.get(name), situation.desired.prepared.get(name)
    # What is only fetched ahead has an owner and an origin; nothing else of it is wanted yet.
    known = ahead if wanted is None and listed is None and name not in situation.desired.leaving else wanted
    return AdapterReport(
        lora_name=name,
        lora_path=listed if wanted is None else wanted.path or None,
        source=None if known is None or known.origin is None else known.origin.uri,
        owner=None if known is None else known.owner,
        revision=None if wanted is None else wanted.revision,
        required=wanted is not None and wanted.required,
        state=standing.state,
        reason=str(standing.reason),
        message=standing.message,
        retryable=standing.retryable,
        attempts=0 if wanted is None else calls_for(situation.progress.get(name), wanted),
        since=0.0,
        held_revision=_held_revision(wanted, listed),
        prepared=prepared,
        credentials_revision=None if wanted is None else wanted.credentials_revision,
    )


def _held_revision(wanted: Wanted | None, listed: str | None) -> str | None:
    if wanted is None or wanted.held is None or listed is None:
        return None
    return wanted.held.revision if _same(listed, wanted.held.path) else None

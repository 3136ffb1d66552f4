"""What to do next, from what is desired, what the engine lists, and how earlier attempts went. Pure.

From an `AdapterSnapshot` to a `Plan`: actions and the reports that the API shows, both from the same poll of the
engine. What is staged is `staging`'s part of the plan; backoff is `progress`'s. Clocks, dice and the engine are the
caller's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from patio.adapters.desired import AdapterSpec, Slot
from patio.adapters.explanations import base_model_doubt, progress_of_call, reason_to_load, short_model_names, slow_at
from patio.adapters.plan import Action, Fetch, Load, Plan, Reload, Restore, Unload
from patio.adapters.progress import PATIENCE, Progress, calls_for
from patio.adapters.snapshot import AdapterSnapshot, holds, same_path
from patio.adapters.staging import credentials_awaited, plan_staged, will_come
from patio.engine.base import EngineReason, trial_name
from patio_protocol.adapters import AdapterReport, AdapterState, PreparedReport, PreparedState
from patio_protocol.downloads import DownloadReason

Step = Action | float
"""What follows for an adapter: an action, or when to plan again."""


@dataclass(frozen=True, slots=True)
class _Condition:
    """How one adapter stands, and what follows."""

    state: AdapterState
    reason: str
    message: str = ""
    retryable: bool = True
    step: Step | None = None


_LOADED = _Condition(AdapterState.LOADED, "Loaded")


def plan(snapshot: AdapterSnapshot) -> Plan:
    """Return what to do next. No action for a name that is settled, waits, or has one running."""
    desired = snapshot.desired
    names = sorted({name for name, _ in desired.specs} | desired.leaving | (snapshot.view.adapters or {}).keys())
    steps, reports = _planned(snapshot, names)
    steps += _trials(snapshot)
    steps += slow_at(snapshot)
    return Plan(
        actions=tuple(step for step in steps if not isinstance(step, float)),
        reports=tuple(reports),
        requeue_at=min((step for step in steps if isinstance(step, float)), default=None),
    )


def reports_of(snapshot: AdapterSnapshot, names: Iterable[str]) -> tuple[AdapterReport, ...]:
    """Return how some adapters stand."""
    return tuple(_planned(snapshot, names)[1])


def _planned(snapshot: AdapterSnapshot, names: Iterable[str]) -> tuple[list[Step], list[AdapterReport]]:
    steps: list[Step] = []
    reports: list[AdapterReport] = []
    fitting = _fitting(snapshot)
    serving = frozenset(short_model_names(snapshot.view))
    for name in names:
        staged = snapshot.desired.spec(name, Slot.STAGED)
        prepared, fetch = (None, None) if staged is None else plan_staged(snapshot, staged)
        condition = _condition_of(snapshot, name, prepared, fitting, serving)
        steps += [step for step in (condition.step, fetch) if step is not None]
        reports.append(_report(snapshot, name, condition, prepared))
    return steps, reports


def readiness_blockers(snapshot: AdapterSnapshot, reports: tuple[AdapterReport, ...]) -> tuple[str, ...]:
    """Return what the pod's readiness waits for, in words; empty when the adapters hold nothing back.

    A bad adapter must not take the base model down, so Failed counts. One that is swapped for another revision holds
    nothing back, though it is away for the moment between the two.
    """
    listed = snapshot.view.adapters or {}
    waiting: list[str] = []
    for report in reports:
        spec = snapshot.desired.spec(report.lora_name)
        if spec is None or not spec.gating or report.state in (AdapterState.LOADED, AdapterState.FAILED):
            continue
        swapped = isinstance(snapshot.running.get((spec.name, Slot.ACTIVE)), Reload)
        if spec.served and (swapped or spec.name in listed):
            continue
        waiting.append(f"adapter {report.lora_name} is {report.state}: {report.message or report.reason}")
    return tuple(waiting)


def _condition_of(
    snapshot: AdapterSnapshot,
    name: str,
    prepared: PreparedReport | None,
    fitting: frozenset[str],
    serving: frozenset[str],
) -> _Condition:
    listed = snapshot.view.adapters or {}
    spec = snapshot.desired.spec(name)
    if spec is not None:
        condition = _active(snapshot, spec, listed.get(name), name in fitting)
        doubt = base_model_doubt(snapshot, spec, serving) if condition.state is AdapterState.LOADED else ""
        return replace(condition, message=doubt) if doubt else condition
    if name in snapshot.desired.leaving:
        return _leaving(snapshot, name)
    if name in listed:
        message = "The engine has this adapter, and no order asked for it. The sidecar never touches it."
        return _Condition(AdapterState.LOADED, "Unmanaged", message)
    is_prepared = prepared is not None and prepared.state is PreparedState.PREPARED
    message = "No order asks to load the adapter yet. The sidecar fetches its files before the switch."
    return _Condition(AdapterState.PENDING, "Prepared" if is_prepared else "Preparing", message)


def _trials(snapshot: AdapterSnapshot) -> list[Step]:
    """Return unloads of trials that no reload uses any more: a reload broke off, or the sidecar died."""
    swaps = [action.spec for action in snapshot.running.values() if isinstance(action, Reload)]
    running = {trial_name(spec.name, spec.path) for spec in swaps} | _running_names(snapshot)
    steps: list[Step] = []
    for name in sorted(snapshot.view.trials - running):
        progress = snapshot.progress.get((name, Slot.ACTIVE), Progress())
        if progress.life == snapshot.life and snapshot.now < progress.not_before:
            steps.append(progress.not_before)
        else:
            steps.append(Unload(name, "The trial of these weights is over."))
    return steps


def _active(snapshot: AdapterSnapshot, spec: AdapterSpec, path: str | None, fits: bool) -> _Condition:
    name, view = spec.name, snapshot.view
    running = snapshot.running.get((name, Slot.ACTIVE))
    if running is None and not spec.fetching and view.ready and view.adapters is not None and holds(spec, path):
        return _LOADED
    progress = snapshot.progress_of(spec)
    if spec.fetching or isinstance(running, Fetch):
        return _fetching(snapshot, spec, progress, running)
    if running is not None:
        # Until a retry is over, what is known is that it failed: readiness must not flap with every try.
        return _failed(progress) or _Condition(
            AdapterState.LOADING, "Loading", progress_of_call(snapshot, name, running)
        )
    if not view.ready:
        return _Condition(
            AdapterState.PENDING, "EngineNotReady", view.problem or "The sidecar has not polled the engine yet."
        )
    if view.adapters is None:
        if view.error is not None and view.error.permanent:
            return _Condition(AdapterState.FAILED, view.error.reason, view.problem, retryable=False)
        return _Condition(AdapterState.PENDING, "ListUnreadable", view.problem)
    if path is None and _restorable(spec, progress):
        assert spec.held is not None
        reason = f"The sidecar restores the weights from {spec.held.path}, since the desired ones cannot be loaded."
        return _with_step(_failed(progress) or _pausing(progress), Restore(spec, reason))
    if snapshot.now < progress.not_before and name not in snapshot.changed_files and not fits:
        return _with_step(_failed(progress) or _pausing(progress), progress.not_before)
    reason = reason_to_load(snapshot, spec, path, progress, fits)
    action = Load(spec, reason) if path is None else Reload(spec, reason)
    return _with_step(_failed(progress) or _Condition(AdapterState.PENDING, "Queued", reason), action)


def _fetching(snapshot: AdapterSnapshot, spec: AdapterSpec, progress: Progress, running: Action | None) -> _Condition:
    """Return how an adapter stands whose files are not there; the engine has no say in that."""
    assert spec.origin is not None
    if isinstance(running, Fetch):
        return _failed(progress) or _Condition(AdapterState.DOWNLOADING, "Downloading", running.reason)
    if running is not None:
        return _Condition(AdapterState.PENDING, "Queued", f"Waiting for the current action: {running.reason}")
    message = credentials_awaited(spec, (spec.name, Slot.ACTIVE) in snapshot.credentials)
    if message is not None:
        state = AdapterState.PENDING if will_come(spec) else AdapterState.FAILED
        return _Condition(state, DownloadReason.CREDENTIALS_MISSING, message)
    if snapshot.now < progress.not_before:
        return _with_step(_failed(progress) or _pausing(progress), progress.not_before)
    reason = f"The sidecar fetches the files from {spec.origin.uri}."
    if progress.rejection is not None:
        reason = f"Retrying after an error: {progress.rejection.message}"
    return _with_step(_failed(progress) or _Condition(AdapterState.PENDING, "Queued", reason), Fetch(spec, reason))


def _with_step(condition: _Condition, step: Step) -> _Condition:
    """Return a standing from which something follows. Not by `replace`, which costs as much as all the rest."""
    return _Condition(condition.state, condition.reason, condition.message, condition.retryable, step)


def _failed(progress: Progress) -> _Condition | None:
    """Return the condition of what counts as failed: permanently rejected, or failing for too long."""
    rejection = progress.rejection
    if rejection is None or not (not rejection.retryable or progress.failures >= PATIENCE):
        return None
    return _Condition(AdapterState.FAILED, rejection.reason, rejection.message, retryable=rejection.retryable)


def _fitting(snapshot: AdapterSnapshot) -> frozenset[str]:
    """Return which of the adapters that were evicted have a free slot by now, so that loading them evicts nothing."""
    limit = snapshot.capacity.loaded
    if limit is None:
        return frozenset()
    listed = (snapshot.view.adapters or {}).keys() | snapshot.view.trials | _running_names(snapshot)
    evicted = sorted(
        name
        for (name, slot), progress in snapshot.progress.items()
        if slot is Slot.ACTIVE
        and snapshot.desired.spec(name) is not None
        and name not in listed
        and progress.rejection is not None
        and progress.rejection.reason is EngineReason.EVICTED
    )
    return frozenset(evicted[: max(0, limit - len(listed))])


def _running_names(snapshot: AdapterSnapshot) -> set[str]:
    return {name for name, slot in snapshot.running if slot is Slot.ACTIVE}


def _restorable(spec: AdapterSpec, progress: Progress) -> bool:
    """Whether other weights were held under the name before, and were not tried since the wanted ones failed."""
    if progress.rejection is None or progress.rejection.reason is EngineReason.EVICTED or spec.held is None:
        return False
    return not same_path(spec.held.path, spec.path) and progress.restored < progress.failures


def _pausing(progress: Progress) -> _Condition:
    if progress.rejection is None:
        message = (
            "The adapter vanished from the engine's list more than once. The sidecar loads it again after a pause."
        )
        return _Condition(AdapterState.PENDING, "Lost", message)
    return _Condition(AdapterState.PENDING, progress.rejection.reason, progress.rejection.message)


def _leaving(snapshot: AdapterSnapshot, name: str) -> _Condition:
    running = snapshot.running.get((name, Slot.ACTIVE))
    if running is not None:
        return _Condition(AdapterState.UNLOADING, "Unloading", progress_of_call(snapshot, name, running))
    progress = snapshot.progress.get((name, Slot.ACTIVE), Progress())
    rejection = progress.rejection if progress.life == snapshot.life else None
    if snapshot.view.adapters is None or not snapshot.view.ready:
        return _Condition(AdapterState.UNLOADING, "EngineNotReady", snapshot.view.problem)
    if progress.life == snapshot.life and snapshot.now < progress.not_before:
        if rejection is None:
            message = "The engine loaded the adapter again for a request. The sidecar unloads it after a pause."
            return _Condition(AdapterState.UNLOADING, "ReloadedByEngine", message, step=progress.not_before)
        return _Condition(
            AdapterState.UNLOADING, rejection.reason, rejection.message, rejection.retryable, progress.not_before
        )
    if name not in snapshot.view.adapters:
        return _Condition(AdapterState.UNLOADING, "Unloaded", "The engine no longer lists the adapter.")
    action = Unload(name, "The adapter is no longer desired.")
    return _Condition(AdapterState.UNLOADING, "Unloading", action.reason, step=action)


def _report(
    snapshot: AdapterSnapshot, name: str, condition: _Condition, prepared: PreparedReport | None
) -> AdapterReport:
    listed = (snapshot.view.adapters or {}).get(name)
    spec, staged = snapshot.desired.spec(name), snapshot.desired.spec(name, Slot.STAGED)
    # What is only fetched ahead has an owner and an origin; nothing else of it is wanted yet.
    shown = staged if spec is None and listed is None and name not in snapshot.desired.leaving else spec
    return AdapterReport(
        lora_name=name,
        lora_path=listed if spec is None else spec.path or None,
        source=None if shown is None or shown.origin is None else shown.origin.uri,
        owner=None if shown is None else shown.owner,
        revision=None if spec is None else spec.revision,
        required=spec is not None and spec.required,
        state=condition.state,
        reason=str(condition.reason),
        message=condition.message,
        retryable=condition.retryable,
        attempts=0 if spec is None else calls_for(snapshot.progress.get((name, Slot.ACTIVE)), spec),
        since=0.0,
        held_revision=_held_revision(spec, listed),
        prepared=prepared,
        credentials_revision=None if spec is None else spec.credentials_revision,
    )


def _held_revision(spec: AdapterSpec | None, listed: str | None) -> str | None:
    if spec is None or spec.held is None or listed is None:
        return None
    return spec.held.revision if same_path(listed, spec.held.path) else None

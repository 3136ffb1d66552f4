"""Rollout: a new source on pods that hold an old one. Which pod fetches, which switches, and when all stops. Pure.

Comes after `scheduling`, for the pods that keep the adapter. Files are fetched on every pod before any switches; a
pod's label goes before its weights do (`serving_labels`); no more than spec.maxUnavailable pods are without the adapter
at once; the first pod that fails stops the rest. Nothing is remembered: where a rollout stands is read off the
sidecars' reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from patio_operator.loraadapters.planner.candidates import Candidate, Desired
from patio_operator.loraadapters.planner.filters import last_rejection, rejected
from patio_operator.loraadapters.planner.observation import Prepared
from patio_operator.loraadapters.planner.plan import Condition, Instance, names
from patio_protocol.adapters import LoadRequest, PreparedState


@dataclass
class Rollout:
    """What is decided; filled in here, read by the rest of the plan."""

    orders: list[tuple[Candidate, LoadRequest, str]] = field(default_factory=list)
    """With the reason."""
    unlabel: dict[str, str] = field(default_factory=dict)
    """Pod UID to why its label goes though its engine answers."""
    waiting_for: dict[str, str] = field(default_factory=dict)
    """Pod UID to what a pod with the old weights waits for, in a sentence."""
    condition: Condition | None = None
    """Why it does not go on, or what it waits for outside of Patio."""
    requeue_times: list[datetime] = field(default_factory=list)


def roll_out(desired: Desired, kept: Sequence[Candidate]) -> Rollout:
    """Decide the next step of a rollout.

    Args:
        desired: what the orders say.
        kept: the pods that have the adapter and shall, of the new source and of the old.

    """
    rollout = Rollout()
    behind = [candidate for candidate in kept if not candidate.updated and not candidate.observed.silent]
    if not behind:
        return rollout
    answering = any(candidate.answers for candidate in kept)
    back: list[Candidate] = []
    holders: list[Candidate] = []
    for candidate in behind:
        assert candidate.report is not None
        if candidate.report.held_revision == desired.load.revision:
            back.append(candidate)
        elif not candidate.answers and (candidate.failed or not answering):
            # As far as is known: by now its engine may answer again, and requests come while it has its label.
            at = candidate.drained_at
            if candidate.is_labelled or at is not None:
                rollout.waiting_for[candidate.pod.uid] = (
                    "Removed from the Service; loading the new source after in-flight requests have drained."
                )
                rollout.requeue_times += [] if at is None else [at]
            else:
                _order(
                    rollout, desired.load, candidate, "the source changed, and the engine does not serve the adapter"
                )
        else:
            holders.append(candidate)
    _take_back(rollout, desired, kept, back)
    if not holders:
        return rollout
    failed = [candidate for candidate in kept if candidate.updated and candidate.failed]
    if failed:
        _stop(rollout, holders, failed, "failed with the new source", _report_message(failed[0]))
        return rollout
    if not _prepared(rollout, desired, kept, holders):
        return rollout
    _switch(rollout, desired, kept, holders)
    return rollout


def _take_back(rollout: Rollout, desired: Desired, kept: Sequence[Candidate], back: Sequence[Candidate]) -> None:
    """Have pods keep the current source that were ordered to load another one, which is not current any more.

    A sidecar that gave the other one up stays where it is. One that is at it may have switched since it reported, and
    switches back then: its label goes first, as in every switch, unless no other pod has the adapter.
    """
    why = "spec.source was changed back, and the pod may have switched already"
    available = {
        candidate.pod.uid for candidate in kept if candidate.answers and candidate.is_labelled and candidate.pod.ready
    }
    for candidate in back:
        at = candidate.drained_at
        if candidate.failed:
            _order(rollout, desired.load, candidate, "the engine serves the current source already")
        elif available == {candidate.pod.uid}:
            _order(rollout, desired.load, candidate, f"{why}; no other pod serves the adapter")
        elif candidate.is_labelled or at is not None:
            available.discard(candidate.pod.uid)
            rollout.unlabel[candidate.pod.uid] = why
            rollout.waiting_for[candidate.pod.uid] = (
                "Removed from the Service; the order to keep this source follows after in-flight requests have drained."
            )
            if at is not None:
                rollout.requeue_times.append(at)
        else:
            rollout.unlabel[candidate.pod.uid] = why
            _order(rollout, desired.load, candidate, why)


def _prepared(rollout: Rollout, desired: Desired, kept: Sequence[Candidate], holders: Sequence[Candidate]) -> bool:
    """Have the files fetched everywhere; tell whether they are."""
    if desired.prepare is None:
        return True
    if desired.missing is not None:
        rollout.condition = desired.missing
        return False
    fetching: list[Candidate] = []
    bad: list[Candidate] = []
    for candidate in holders:
        prepared = _of_now(candidate, desired)
        why = _why_prepare(prepared, desired)
        if why is not None:
            fetching.append(candidate)
            _order(rollout, desired.prepare, candidate, why)
            rejection = last_rejection(desired.prepare, candidate)
            if rejection is not None:
                rollout.condition = Condition(rejection.reason, f"{candidate.pod.name}: {rejection.message}")
        elif prepared is not None and prepared.state is PreparedState.FAILED and not prepared.retryable:
            bad.append(candidate)
        elif prepared is not None and prepared.state is not PreparedState.PREPARED:
            fetching.append(candidate)
            rollout.waiting_for[candidate.pod.uid] = f"The new files are not fetched yet. {prepared.message}".strip()
    if bad:
        prepared = _of_now(bad[0], desired)
        message = "" if prepared is None else prepared.message or prepared.reason
        _stop(rollout, holders, bad, "could not fetch the new source", f"{bad[0].pod.name}: {message}")
        return False
    silent = [
        candidate
        for candidate in kept
        if candidate.observed.silent and not candidate.updated and not candidate.observed.lost
    ]
    lacking = names([candidate.pod.name for candidate in (*fetching, *silent)])
    for candidate in holders:
        if lacking:
            message = f"The new files are fetched. Waiting: {lacking} must fetch them before any pod switches."
            rollout.waiting_for.setdefault(candidate.pod.uid, message)
    return not fetching and not silent


def _of_now(candidate: Candidate, desired: Desired) -> Prepared | None:
    """Return what a pod says of the files of the declared source."""
    prepared = None if candidate.report is None else candidate.report.prepared
    return prepared if prepared is not None and prepared.revision == desired.load.revision else None


def _why_prepare(prepared: Prepared | None, desired: Desired) -> str | None:
    if prepared is None:
        return "the source changed, and every pod fetches the files before any pod switches"
    if prepared.state is PreparedState.PREPARED:
        return None
    if prepared.state is PreparedState.PENDING and prepared.reason == "CredentialsMissing":
        return "the sidecar has no credentials for the new files"
    if prepared.credentials_revision != desired.load.credentials_revision:
        return "the credentials for the new files changed"
    return None


def _switch(rollout: Rollout, desired: Desired, kept: Sequence[Candidate], holders: Sequence[Candidate]) -> None:
    """Have as many pods switch as may."""
    most = desired.adapter.spec.max_unavailable
    available = {
        candidate.pod.uid for candidate in kept if candidate.answers and candidate.is_labelled and candidate.pod.ready
    }
    unavailable = [candidate.pod.name for candidate in kept if candidate.pod.uid not in available]
    back_soon = any(candidate.pod.uid not in available and not candidate.observed.silent for candidate in kept)
    missing = len(unavailable)
    in_progress = sum(
        candidate.updated and not candidate.loaded and not candidate.observed.silent for candidate in kept
    )
    order = sorted(
        holders,
        key=lambda candidate: (
            candidate.pod.uid in available,
            candidate.name not in candidate.observed.unlabelled_at,
            candidate.pod.name,
        ),
    )
    for candidate in order:
        is_available = candidate.pod.uid in available
        rejection = rejected(desired.load, candidate)
        last = available == {candidate.pod.uid}
        if in_progress >= most or (is_available and missing >= most) or (last and back_soon):
            rollout.waiting_for.setdefault(candidate.pod.uid, _turn(most, unavailable))
            continue
        in_progress += 1
        missing += is_available
        if is_available:
            available.discard(candidate.pod.uid)
            unavailable.append(candidate.pod.name)
            back_soon = True
        at = candidate.drained_at
        if rejection is not None:
            rollout.waiting_for[candidate.pod.uid] = _rejection_message(rejection)
        elif last:
            # No other pod has it: its label stays, for a request that may fail is better than one that must.
            _order(rollout, desired.load, candidate, "switching to the new source; no other pod serves the adapter")
        else:
            rollout.unlabel[candidate.pod.uid] = "switching to the new source"
            if not candidate.is_labelled and at is None:
                _order(rollout, desired.load, candidate, "switching to the new source")
                continue
            rollout.waiting_for[candidate.pod.uid] = (
                "Removed from the Service; switching after in-flight requests have drained."
            )
            if at is not None:
                rollout.requeue_times.append(at)


def _turn(most: int, unavailable: Sequence[str]) -> str:
    if not unavailable:
        return f"Waiting: maxUnavailable is {most}."
    pods = f"pod {unavailable[0]} is" if len(unavailable) == 1 else f"pods {names(unavailable)} are"
    return f"Waiting: maxUnavailable is {most} and {pods} not available yet."


def _order(rollout: Rollout, request: LoadRequest, candidate: Candidate, why: str) -> None:
    rejection = rejected(request, candidate)
    if rejection is None:
        rollout.orders.append((candidate, request, why))
        rollout.waiting_for.setdefault(candidate.pod.uid, f"Order sent: {why}.")
    else:
        rollout.waiting_for[candidate.pod.uid] = _rejection_message(rejection)


def _rejection_message(rejection: Instance) -> str:
    return (
        f"The sidecar rejected the order: {rejection.message}"
        if rejection.reason == "SidecarRejected"
        else rejection.message
    )


def _stop(rollout: Rollout, holders: Sequence[Candidate], bad: Sequence[Candidate], what: str, message: str) -> None:
    pods = names([candidate.pod.name for candidate in bad])
    left = names([candidate.pod.name for candidate in holders])
    keep = "keeps" if len(holders) == 1 else "keep"
    rollout.condition = Condition(
        "RolloutStopped",
        f"The rollout is stopped: {pods} {what}. {left} {keep} the previous weights. "
        f"Correct spec.source, or change it back. {message}",
    )
    for candidate in holders:
        rollout.waiting_for[candidate.pod.uid] = (
            f"The rollout is stopped: {pods} {what}. This pod keeps the previous weights."
        )


def _report_message(candidate: Candidate) -> str:
    report = candidate.report
    return "" if report is None else f"{candidate.pod.name}: {report.message or report.reason}"

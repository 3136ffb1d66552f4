"""A new source on pods that hold an old one: which pod fetches, which switches, and when all stops. Pure.

Comes after `placing`, for the pods that keep the adapter. Files are fetched on every pod before any switches; a pod's
label goes before its weights do (`marks`); no more than spec.maxUnavailable pods are without the adapter at once; the
first pod that fails stops the rest. Nothing is remembered: where a rollout stands is read off the sidecars' reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from patio_operator.placement.fleet import Prepared
from patio_operator.placement.marks import settled_at
from patio_operator.placement.obstacles import Refusals, refused, told_refusal
from patio_operator.placement.plans import Placed, Trouble
from patio_operator.placement.spots import Spot, Terms
from patio_operator.placement.words import count, names
from patio_protocol.adapters import LoadRequest, PreparedState


@dataclass
class Rollout:
    """What is decided; filled in here, read by the rest of the plan."""

    orders: list[tuple[Spot, LoadRequest, str]] = field(default_factory=list)
    """With the reason."""
    unmark: dict[str, str] = field(default_factory=dict)
    """Pod UID to why its label goes though its engine answers."""
    waits: dict[str, str] = field(default_factory=dict)
    """Pod UID to what a pod with the old weights waits for, in a sentence."""
    trouble: Trouble | None = None
    """Why it does not go on, or what it waits for outside of Patio."""
    times: list[datetime] = field(default_factory=list)


def roll_out(
    terms: Terms,
    kept: Sequence[Spot],
    refusals: Refusals,
    unmarked: Mapping[tuple[str, str], datetime],
    now: datetime,
) -> Rollout:
    """Decide the next step of a rollout.

    Args:
        terms: what the orders say.
        kept: the pods that have the adapter and shall, of the new source and of the old.
        refusals: orders that are not to be repeated yet.
        unmarked: when labels were taken off, by pod UID and adapter name.
        now: the time to judge by.

    """
    rollout = Rollout()
    behind = [spot for spot in kept if not spot.updated and not spot.host.silent]
    if not behind:
        return rollout
    answering = any(spot.answers for spot in kept)
    back: list[Spot] = []
    holders: list[Spot] = []
    for spot in behind:
        assert spot.report is not None
        if spot.report.held_revision == terms.load.revision:
            back.append(spot)
        elif not spot.answers and (spot.failed or not answering):
            # As far as is known: by now its engine may answer again, and requests come while it has its label.
            at = settled_at(spot.pod.uid, spot.name, unmarked)
            if spot.marked or (at is not None and at > now):
                rollout.waits[spot.pod.uid] = "It gets the new source once no more requests are sent here."
                rollout.times += [] if at is None or at <= now else [at]
            else:
                _order(rollout, terms.load, spot, "its source changed, and it does not answer", refusals, now)
        else:
            holders.append(spot)
    _take_back(rollout, terms, kept, back, refusals, unmarked, now)
    if not holders:
        return rollout
    failed = [spot for spot in kept if spot.updated and spot.failed]
    if failed:
        _stop(rollout, holders, failed, "failed with the new source", _said(failed[0]))
        return rollout
    if not _prepared(rollout, terms, kept, holders, refusals, now):
        return rollout
    _switch(rollout, terms, kept, holders, refusals, unmarked, now)
    return rollout


def _take_back(
    rollout: Rollout,
    terms: Terms,
    kept: Sequence[Spot],
    back: Sequence[Spot],
    refusals: Refusals,
    unmarked: Mapping[tuple[str, str], datetime],
    now: datetime,
) -> None:
    """Have pods stay with the declared source that were told to load another one, which is not declared any more.

    A sidecar that gave the other one up stays where it is. One that is at it may have switched since it reported, and
    switches back then: its label goes first, as in every switch, unless no other pod has the adapter.
    """
    why = "it is told to stay with the declared source, and may have switched meanwhile"
    available = {spot.pod.uid for spot in kept if spot.answers and spot.marked and spot.pod.ready}
    for spot in back:
        at = settled_at(spot.pod.uid, spot.name, unmarked)
        if spot.failed:
            _order(rollout, terms.load, spot, "its engine has the declared source already", refusals, now)
        elif available == {spot.pod.uid}:
            _order(rollout, terms.load, spot, f"{why}; it is the only pod", refusals, now)
        elif spot.marked or (at is not None and at > now):
            available.discard(spot.pod.uid)
            rollout.unmark[spot.pod.uid] = why
            rollout.waits[spot.pod.uid] = "It is told to stay with this source once no more requests are sent here."
            if at is not None and at > now:
                rollout.times.append(at)
        else:
            rollout.unmark[spot.pod.uid] = why
            _order(rollout, terms.load, spot, why, refusals, now)


def _prepared(
    rollout: Rollout, terms: Terms, kept: Sequence[Spot], holders: Sequence[Spot], refusals: Refusals, now: datetime
) -> bool:
    """Have the files fetched everywhere; tell whether they are."""
    if terms.prepare is None:
        return True
    if terms.missing is not None:
        rollout.trouble = Trouble(terms.missing.reason, terms.missing.message)
        return False
    fetching: list[Spot] = []
    bad: list[Spot] = []
    for spot in holders:
        prepared = _of_now(spot, terms)
        why = _why_prepare(prepared, terms)
        if why is not None:
            fetching.append(spot)
            _order(rollout, terms.prepare, spot, why, refusals, now)
            refusal = told_refusal(terms.prepare, spot, refusals)
            if refusal is not None:
                rollout.trouble = Trouble(refusal.reason, f"{spot.pod.name}: {refusal.message}")
        elif prepared is not None and prepared.state is PreparedState.FAILED and not prepared.retryable:
            bad.append(spot)
        elif prepared is not None and prepared.state is not PreparedState.PREPARED:
            fetching.append(spot)
            rollout.waits[spot.pod.uid] = f"The new files are not here yet. {prepared.message}".strip()
    if bad:
        prepared = _of_now(bad[0], terms)
        words = "" if prepared is None else prepared.message or prepared.reason
        _stop(rollout, holders, bad, "could not fetch the new source", f"{bad[0].pod.name}: {words}")
        return False
    silent = [spot for spot in kept if spot.host.silent and not spot.updated and not spot.lost(now)]
    lacking = names([one.pod.name for one in (*fetching, *silent)])
    for spot in holders:
        if lacking:
            words = f"The new files are here; {lacking} must have them before any pod switches."
            rollout.waits.setdefault(spot.pod.uid, words)
    return not fetching and not silent


def _of_now(spot: Spot, terms: Terms) -> Prepared | None:
    """Return what a pod says of the files of the declared source."""
    prepared = None if spot.report is None else spot.report.prepared
    return prepared if prepared is not None and prepared.revision == terms.load.revision else None


def _why_prepare(prepared: Prepared | None, terms: Terms) -> str | None:
    if prepared is None:
        return "its source changed: the files are fetched on every pod before any switches"
    if prepared.state is PreparedState.PREPARED:
        return None
    if prepared.state is PreparedState.PENDING and prepared.reason == "CredentialsMissing":
        return "its sidecar has no credentials for the new files"
    if prepared.credentials_revision != terms.load.credentials_revision:
        return "the credentials for the new files changed"
    return None


def _switch(
    rollout: Rollout,
    terms: Terms,
    kept: Sequence[Spot],
    holders: Sequence[Spot],
    refusals: Refusals,
    unmarked: Mapping[tuple[str, str], datetime],
    now: datetime,
) -> None:
    """Have as many pods switch as may."""
    most = terms.adapter.spec.max_unavailable
    available = {spot.pod.uid for spot in kept if spot.answers and spot.marked and spot.pod.ready}
    away = [spot.pod.name for spot in kept if spot.pod.uid not in available]
    back_soon = any(spot.pod.uid not in available and not spot.host.silent for spot in kept)
    missing = len(away)
    under_way = sum(spot.updated and not spot.loaded and not spot.host.silent for spot in kept)
    order = sorted(
        holders,
        key=lambda spot: (
            spot.pod.uid in available,
            (spot.pod.uid, spot.name) not in unmarked,
            spot.pod.name,
        ),
    )
    for spot in order:
        here = spot.pod.uid in available
        refusal = refused(terms.load, spot, refusals, now)
        last = available == {spot.pod.uid}
        if under_way >= most or (here and missing >= most) or (last and back_soon):
            rollout.waits.setdefault(spot.pod.uid, _turn(most, away))
            continue
        under_way += 1
        missing += here
        if here:
            available.discard(spot.pod.uid)
            away.append(spot.pod.name)
            back_soon = True
        at = settled_at(spot.pod.uid, spot.name, unmarked)
        if refusal is not None:
            rollout.waits[spot.pod.uid] = _refusal(refusal)
        elif last:
            # Nobody else has it: its label stays, for a request that may fail is better than one that must.
            _order(rollout, terms.load, spot, "it is the only pod to switch to the new source", refusals, now)
        else:
            rollout.unmark[spot.pod.uid] = "it switches to the new source"
            if not spot.marked and (at is None or at <= now):
                _order(rollout, terms.load, spot, "it is its turn to switch to the new source", refusals, now)
                continue
            rollout.waits[spot.pod.uid] = "It switches once no more requests are sent here."
            if at is not None and at > now:
                rollout.times.append(at)


def _turn(most: int, away: Sequence[str]) -> str:
    words = f"It waits for its turn: at most {count(most)} at once"
    return f"{words}, and {names(away)} must be back first." if away else f"{words}."


def _order(rollout: Rollout, request: LoadRequest, spot: Spot, why: str, refusals: Refusals, now: datetime) -> None:
    refusal = refused(request, spot, refusals, now)
    if refusal is None:
        rollout.orders.append((spot, request, why))
        rollout.waits.setdefault(spot.pod.uid, f"The sidecar was told: {why}.")
    else:
        rollout.waits[spot.pod.uid] = _refusal(refusal)


def _refusal(refusal: Placed) -> str:
    return f"The sidecar refused: {refusal.message}" if refusal.reason == "SidecarRefused" else refusal.message


def _stop(rollout: Rollout, holders: Sequence[Spot], bad: Sequence[Spot], what: str, words: str) -> None:
    pods = names([spot.pod.name for spot in bad])
    left = names([spot.pod.name for spot in holders])
    rollout.trouble = Trouble(
        "RolloutStopped",
        f"The rollout stopped: {pods} {what}. {left} {'keeps' if len(holders) == 1 else 'keep'} the old weights. "
        f"Correct spec.source or take the change back. {words}",
    )
    for spot in holders:
        rollout.waits[spot.pod.uid] = f"The rollout stopped, as {pods} {what}; this pod keeps the old weights."


def _said(spot: Spot) -> str:
    report = spot.report
    return "" if report is None else f"{spot.pod.name}: {report.message or report.reason}"

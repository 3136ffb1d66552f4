"""From pods, their sidecars' reports and LoraAdapters to what is to be done. Pure: reasons in, reasons out.

Reads the namespace as it is now and says what should happen next; it remembers nothing between calls, so that any
order of events comes to the same end. The steps are modules of their own (see the package); here they are put together:
one LoraAdapter after the other, the pinned and the older first, then one pod after the other. `reconcile.adapters`
carries the plan out and calls again when a report or an object changes. What no LoraAdapter owns was loaded by hand and
is never touched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from patio_operator.api.loraadapter import UNLOAD_FINALIZER, LoraAdapter
from patio_operator.placement import placing
from patio_operator.placement.candidates import Candidates
from patio_operator.placement.credentials import Credentials, Missing
from patio_operator.placement.deletion import Holders, release
from patio_operator.placement.fleet import Pod, Seen
from patio_operator.placement.marks import mark, settled_at, shows
from patio_operator.placement.matching import is_deleting, oldest_first
from patio_operator.placement.obstacles import Refusals, refused, told_refusal
from patio_operator.placement.placing import Choice
from patio_operator.placement.plans import (
    Action,
    Hold,
    Load,
    Order,
    Placed,
    PlacedState,
    Placement,
    Plan,
    Refusal,
    Release,
    Unload,
)
from patio_operator.placement.rollout import Rollout, roll_out
from patio_operator.placement.rooms import Rooms
from patio_operator.placement.spots import Host, Spot, Terms, claims_of, host_of, owned, spots_of, terms_of
from patio_operator.placement.steps import Steps, finish, in_parts
from patio_protocol.adapters import AdapterState, LoadRequest, UnloadRequest

Unmarked = Mapping[tuple[str, str], datetime]

MANY_REPORTS = 2000
"""Reports of pods after which others get a turn: a pod may have a thousand."""


@dataclass
class _Draft:
    """A plan in the making."""

    actions: list[Action] = field(default_factory=list)
    placements: dict[str, Placement] = field(default_factory=dict)
    kept: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Pod UID to the names of what stays, or is on its way."""
    shown: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Pod UID to the names that its labels shall show, each with the UID of its LoraAdapter."""
    off: dict[str, dict[str, str]] = field(default_factory=dict)
    """Pod UID and adapter name to why the label, or all of it, goes."""
    times: list[datetime] = field(default_factory=list)


def plan(
    pods: Sequence[Pod],
    seen: Mapping[str, Seen],
    adapters: Sequence[LoraAdapter],
    credentials: Mapping[str, Credentials | Missing],
    refusals: Mapping[tuple[str, Order], Refusal],
    unmarked: Mapping[tuple[str, str], datetime],
    now: datetime,
    deleted_at: Mapping[str, datetime] | None = None,
) -> Plan:
    """Plan one namespace at once; for the arguments see `steps`."""
    return finish(steps(pods, seen, adapters, credentials, refusals, unmarked, now, deleted_at or {}))


def steps(
    pods: Sequence[Pod],
    seen: Mapping[str, Seen],
    adapters: Sequence[LoraAdapter],
    credentials: Mapping[str, Credentials | Missing],
    refusals: Mapping[tuple[str, Order], Refusal],
    unmarked: Mapping[tuple[str, str], datetime],
    now: datetime,
    deleted_at: Mapping[str, datetime],
) -> Steps[Plan]:
    """Plan one namespace, a little at a time.

    Args:
        pods: every pod with a sidecar in the namespace.
        seen: what their sidecars said, by pod UID.
        adapters: every LoraAdapter of the namespace, those being deleted included.
        credentials: what there is for the LoraAdapters that have a secretRef, by object name.
        refusals: orders that a sidecar did not take, by pod UID and order (as the plan had it, without secrets). One
            whose time is over is still told until it is taken away: the order may be refused once more.
        unmarked: when the label of an adapter was last taken off a pod, by pod UID and adapter name; what is absent
            was long ago. Only a removal that really changed the pod counts. A label that may be about to come, by a
            patch that is under way, is one that went now.
        now: the time to judge bounds by.
        deleted_at: when the operator saw first that a LoraAdapter is deleted, by UID and its own clock; for what is
            absent the API server's time counts.

    """
    in_order = oldest_first(adapters)
    staying = [one for one in in_order if not is_deleting(one)]
    deleted = [one for one in in_order if is_deleting(one) and UNLOAD_FINALIZER in one.metadata.finalizers]
    draft = _Draft()
    draft.actions += [Hold(one) for one in staying if UNLOAD_FINALIZER not in one.metadata.finalizers]
    draft.times += [refusal.until for refusal in refusals.values() if refusal.until > now]
    yield
    hosts: list[Host] = []
    candidates: Candidates[Host] = Candidates(staying)
    rooms, holders = Rooms(staying), Holders(deleted)
    passed = 0
    counting = [pod for pod in pods if not pod.leaving and pod.sidecar_port is not None]
    for pod in sorted(counting, key=lambda one: one.name):
        host = host_of(pod, seen)
        hosts.append(host)
        candidates.add(pod.labels, host)
        rooms.add(host)
        holders.add(host)
        passed += 1 + len(host.reports)
        if passed > MANY_REPORTS:
            passed = 0
            yield
    yield
    claims = yield from claims_of(staying, candidates)
    for adapter in sorted(staying, key=lambda one: not one.spec.pinned):
        terms = terms_of(adapter, credentials)
        spots = yield from spots_of(terms, candidates, claims)
        choose = placing.everywhere if adapter.spec.replicas is None else placing.some
        choice = choose(terms, spots, rooms, refusals, now)
        yield
        yield from _adapter(draft, terms, spots, choice, refusals, unmarked, now)
    for host in hosts:
        _pod(draft, host, refusals, unmarked, now)
        passed += 1 + len(host.reports)
        if passed > MANY_REPORTS:
            passed = 0
            yield
    for adapter in deleted:
        noticed = deleted_at.get(adapter.metadata.uid) or adapter.metadata.deletion_timestamp or now
        outcome = release(holders, adapter, noticed, now)
        if isinstance(outcome, Release):
            draft.actions.append(outcome)
        else:
            draft.times.append(outcome)
        yield
    return Plan(tuple(draft.actions), draft.placements, min((one for one in draft.times if one > now), default=None))


def _adapter(
    draft: _Draft,
    terms: Terms,
    spots: Sequence[Spot],
    choice: Choice,
    refusals: Refusals,
    unmarked: Unmarked,
    now: datetime,
) -> Steps[None]:
    """Add one LoraAdapter's orders, labels and standing."""
    draft.times += choice.times
    rollout = roll_out(terms, choice.kept, refusals, unmarked, now)
    yield
    draft.times += rollout.times
    orders = [*rollout.orders, *_again(terms, choice.kept)]
    for spot in choice.new:
        if _is_quiet(draft, spot, unmarked, now):
            orders.append((spot, terms.load, _WANTED_AGAIN if spot.going else _MISSING))
    draft.actions += [
        Load(spot.pod, terms.key, request, why, terms.secret)
        for spot, request, why in orders
        if refused(request, spot, refusals, now) is None
    ]
    name, owner, kept, shown = terms.name, terms.adapter.metadata.uid, draft.kept, draft.shown
    for spot in (*choice.kept, *choice.new):
        uid = spot.pod.uid
        kept[uid].add(name)
        if shows(spot) and uid not in rollout.unmark:
            shown[uid][name] = owner
    for uid, why in (*choice.let_go.items(), *rollout.unmark.items()):
        draft.off.setdefault(uid, {})[terms.name] = why
    placed = list(choice.waiting)
    yield
    for some_kept in in_parts(choice.kept):
        placed += [_standing(terms, spot, rollout, refusals) for spot in some_kept]
        yield
    placed += [told_refusal(terms.load, spot, refusals) or _ordered(spot) for spot in choice.new]
    placed += _leaving(spots, choice, {one.pod.uid for one in placed})
    if not any(spot.host.unasked for spot in spots):
        placed.sort(key=lambda one: one.pod.name)
        draft.placements[terms.key] = Placement(tuple(placed), choice.desired, choice.trouble or rollout.trouble)
    yield


def _is_quiet(draft: _Draft, spot: Spot, unmarked: Unmarked, now: datetime) -> bool:
    """Tell whether requests to the adapter are over on a pod: what is ordered there may take other weights away."""
    at = settled_at(spot.pod.uid, spot.name, unmarked)
    if at is not None and at > now:
        draft.times.append(at)
        return False
    return not spot.marked


_MISSING = "the pod does not have it"
_WANTED_AGAIN = "it is on its way out and is wanted again"


def _again(terms: Terms, kept: Iterable[Spot]) -> Iterable[tuple[Spot, LoadRequest, str]]:
    """Repeat orders whose credentials are missing or are others by now, and end what is fetched ahead for nothing."""
    if terms.missing is not None:
        return
    for spot in kept:
        report = spot.report
        if not spot.updated or spot.host.silent or report is None:
            continue
        if report.state is AdapterState.LOADED:
            if terms.prepare is not None and report.prepared is not None:
                # A change that was taken back. Files kept ahead go when others take their place and those are used.
                there = report.prepared.revision == terms.load.revision
                yield spot, terms.load if there else terms.prepare, "what was fetched ahead is not wanted any more"
        elif report.state is AdapterState.PENDING and report.reason == "CredentialsMissing":
            yield spot, terms.load, "its sidecar has no credentials for it"
        elif report.credentials_revision != terms.load.credentials_revision:
            yield spot, terms.load, "its credentials changed"


def _standing(terms: Terms, spot: Spot, rollout: Rollout, refusals: Refusals) -> Placed:
    """Say how the adapter stands on a pod that keeps it."""
    report, pod = spot.report, spot.pod
    if spot.updated and spot.answers and report is not None and report.state is AdapterState.LOADED:
        return Placed(pod, PlacedState.LOADED, report.reason, report.message, report.attempts)
    if spot.host.silent or report is None:
        return Placed(pod, PlacedState.UNKNOWN, "SidecarUnreachable", spot.host.view.problem, updated=spot.updated)
    if not spot.updated:
        refusal = told_refusal(terms.load, spot, refusals)
        if refusal is not None:
            return refusal
        waits = rollout.waits.get(pod.uid, "")
        if spot.answers:
            words = f"It answers with the weights of the source before. {waits}".strip()
            return Placed(pod, PlacedState.LOADED, "OldSource", words, report.attempts, updated=False)
        return Placed(pod, PlacedState.PENDING, "OldSource", waits, report.attempts, updated=False)
    if terms.missing is not None and report.reason == "CredentialsMissing":
        return Placed(pod, PlacedState.PENDING, terms.missing.reason, terms.missing.message, report.attempts)
    if report.reason == "CredentialsMissing" and (refusal := told_refusal(terms.load, spot, refusals)) is not None:
        return refusal
    words = report.message
    if spot.failed and spot.answers:
        words = f"{words} It goes on answering with the weights of the source before.".strip()
    return Placed(pod, PlacedState(report.state.value), report.reason, words, report.attempts)


def _ordered(spot: Spot) -> Placed:
    return Placed(spot.pod, PlacedState.PENDING, "Ordered", "The sidecar was told to load it: it does not have it.")


def _leaving(spots: Iterable[Spot], choice: Choice, told: set[str]) -> Iterable[Placed]:
    """Say of the pods that let go of it that they do."""
    for spot in spots:
        if spot.mine and not spot.host.silent and spot.pod.uid not in told:
            why = choice.let_go.get(spot.pod.uid, "" if spot.report is None else spot.report.message)
            yield Placed(spot.pod, PlacedState.UNLOADING, "Unloading", why)


def _pod(draft: _Draft, host: Host, refusals: Refusals, unmarked: Unmarked, now: datetime) -> None:
    """Add one pod's labels, and the unloads of what nobody wants there."""
    if host.silent:
        return
    off = draft.off.get(host.pod.uid, {})
    changed = mark(host, draft.shown.get(host.pod.uid, {}), off)
    if changed is not None:
        draft.actions.append(changed)
    kept = draft.kept.get(host.pod.uid, ())
    for name, report in host.reports.items():
        if name in kept or report.state is AdapterState.UNLOADING:
            continue
        if not owned(report, host.pod.namespace) or name in host.pod.marks:
            continue
        at = settled_at(host.pod.uid, name, unmarked)
        if at is not None and at > now:
            draft.times.append(at)
            continue
        request = UnloadRequest(lora_name=name, owner=report.owner, wait=0)
        refusal = refusals.get((host.pod.uid, request))
        if refusal is None or refusal.until <= now:
            why = off.get(name) or f"{report.owner} does not want it on this pod any more"
            draft.actions.append(Unload(host.pod, request, why))

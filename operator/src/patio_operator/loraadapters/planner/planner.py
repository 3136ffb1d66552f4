"""From a snapshot of a namespace to a plan. Pure.

It remembers nothing between calls, so that any order of events comes to the same end. The steps are modules of their
own (see the package); here they are put together: one LoraAdapter after the other, the pinned and the older first, then
one pod after the other. The feature's `reconciler` carries the plan out and calls again when a report or an object
changes. What no LoraAdapter owns was loaded manually and is never touched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from patio_api.loraadapter import UNLOAD_FINALIZER
from patio_kube.runtime.incremental import Incremental, in_chunks, run_to_end
from patio_operator.loraadapters.planner import scheduling
from patio_operator.loraadapters.planner.candidates import (
    Candidate,
    Desired,
    ObservedPod,
    candidates_of,
    claims_of,
    desired_of,
    observe,
    owned,
)
from patio_operator.loraadapters.planner.capacity import CapacityLedger
from patio_operator.loraadapters.planner.filters import last_rejection, rejected
from patio_operator.loraadapters.planner.finalizers import Holders, finalizer_removal
from patio_operator.loraadapters.planner.plan import (
    Action,
    AddFinalizer,
    Instance,
    InstanceState,
    Load,
    Placement,
    Plan,
    RemoveFinalizer,
    Unload,
)
from patio_operator.loraadapters.planner.rollout import Rollout, roll_out
from patio_operator.loraadapters.planner.scheduling import Assignment
from patio_operator.loraadapters.planner.selection import PodIndex, is_deleting, oldest_first
from patio_operator.loraadapters.planner.serving_labels import is_serving, labels_to_set
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_protocol.adapters import AdapterState, LoadRequest, UnloadRequest

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
    requeue_times: list[datetime] = field(default_factory=list)


def plan(snapshot: Snapshot) -> Plan:
    """Plan one namespace at once."""
    return run_to_end(plan_incrementally(snapshot))


def plan_incrementally(snapshot: Snapshot) -> Incremental[Plan]:
    """Plan one namespace, a little at a time."""
    now = snapshot.now
    in_order = oldest_first(snapshot.adapters)
    staying = [adapter for adapter in in_order if not is_deleting(adapter)]
    deleted = [
        adapter for adapter in in_order if is_deleting(adapter) and UNLOAD_FINALIZER in adapter.metadata.finalizers
    ]
    draft = _Draft()
    draft.actions += [
        AddFinalizer(adapter) for adapter in staying if UNLOAD_FINALIZER not in adapter.metadata.finalizers
    ]
    draft.requeue_times += [rejection.until for rejection in snapshot.rejections.values() if rejection.until > now]
    yield
    observed_pods: list[ObservedPod] = []
    index: PodIndex[ObservedPod] = PodIndex(staying)
    capacity, holders = CapacityLedger(staying), Holders(deleted)
    passed = 0
    for observed in observe(snapshot):
        observed_pods.append(observed)
        index.add(observed.pod.labels, observed)
        capacity.add(observed)
        holders.add(observed)
        passed += 1 + len(observed.reports)
        if passed > MANY_REPORTS:
            passed = 0
            yield
    yield
    claims = yield from claims_of(staying, index)
    for adapter in sorted(staying, key=lambda adapter: not adapter.spec.pinned):
        desired = desired_of(adapter, snapshot.credentials)
        candidates = yield from candidates_of(desired, index, claims)
        schedule = scheduling.schedule_all if adapter.spec.replicas is None else scheduling.schedule_replicas
        assignment = schedule(desired, candidates, capacity)
        yield
        yield from _adapter(draft, desired, candidates, assignment)
    for observed in observed_pods:
        _pod(draft, observed)
        passed += 1 + len(observed.reports)
        if passed > MANY_REPORTS:
            passed = 0
            yield
    for adapter in deleted:
        noticed = snapshot.deleted_at.get(adapter.metadata.uid) or adapter.metadata.deletion_timestamp or now
        outcome = finalizer_removal(holders, adapter, noticed, now)
        if isinstance(outcome, RemoveFinalizer):
            draft.actions.append(outcome)
        else:
            draft.requeue_times.append(outcome)
        yield
    return Plan(
        tuple(draft.actions), draft.placements, min((at for at in draft.requeue_times if at > now), default=None)
    )


def _adapter(
    draft: _Draft, desired: Desired, candidates: Sequence[Candidate], assignment: Assignment
) -> Incremental[None]:
    """Add one LoraAdapter's orders, labels and standing."""
    draft.requeue_times += assignment.requeue_times
    rollout = roll_out(desired, assignment.kept)
    yield
    draft.requeue_times += rollout.requeue_times
    orders = [*rollout.orders, *_repeated(desired, assignment.kept)]
    for candidate in assignment.new:
        if _is_quiet(draft, candidate):
            orders.append((candidate, desired.load, _WANTED_AGAIN if candidate.unloading else _MISSING))
    draft.actions += [
        Load(candidate.pod, desired.key, request, why, desired.secret)
        for candidate, request, why in orders
        if rejected(request, candidate) is None
    ]
    name, owner, kept, shown = desired.name, desired.adapter.metadata.uid, draft.kept, draft.shown
    for candidate in (*assignment.kept, *assignment.new):
        uid = candidate.pod.uid
        kept[uid].add(name)
        if is_serving(candidate) and uid not in rollout.unlabel:
            shown[uid][name] = owner
    for uid, why in (*assignment.let_go.items(), *rollout.unlabel.items()):
        draft.off.setdefault(uid, {})[desired.name] = why
    instances = list(assignment.waiting)
    yield
    for some_kept in in_chunks(assignment.kept):
        instances += [_standing(desired, candidate, rollout) for candidate in some_kept]
        yield
    instances += [last_rejection(desired.load, candidate) or _ordered(candidate) for candidate in assignment.new]
    instances += _leaving(candidates, assignment, {instance.pod.uid for instance in instances})
    if not any(candidate.observed.unasked for candidate in candidates):
        instances.sort(key=lambda instance: instance.pod.name)
        draft.placements[desired.key] = Placement(
            tuple(instances), assignment.desired_replicas, assignment.condition or rollout.condition
        )
    yield


def _is_quiet(draft: _Draft, candidate: Candidate) -> bool:
    """Tell whether requests to the adapter are over on a pod: what is ordered there may take other weights away."""
    at = candidate.drained_at
    if at is not None:
        draft.requeue_times.append(at)
        return False
    return not candidate.is_labelled


_MISSING = "the adapter is not loaded on this pod"
_WANTED_AGAIN = "the adapter is being unloaded and is needed again"


def _repeated(desired: Desired, kept: Iterable[Candidate]) -> Iterable[tuple[Candidate, LoadRequest, str]]:
    """Repeat orders whose credentials are missing or are others by now, and end what is fetched ahead for nothing."""
    if desired.missing is not None:
        return
    for candidate in kept:
        report = candidate.report
        if not candidate.updated or candidate.observed.silent or report is None:
            continue
        if report.state is AdapterState.LOADED:
            if desired.prepare is not None and report.prepared is not None:
                # A change that was taken back. Files kept ahead go when others take their place and those are used.
                is_staged = report.prepared.revision == desired.load.revision
                yield (
                    candidate,
                    desired.load if is_staged else desired.prepare,
                    "the staged files are no longer needed",
                )
        elif report.state is AdapterState.PENDING and report.reason == "CredentialsMissing":
            yield candidate, desired.load, "the sidecar has no credentials for the adapter"
        elif report.credentials_revision != desired.load.credentials_revision:
            yield candidate, desired.load, "the credentials changed"


def _standing(desired: Desired, candidate: Candidate, rollout: Rollout) -> Instance:
    """Say how the adapter stands on a pod that keeps it."""
    report, pod = candidate.report, candidate.pod
    if candidate.updated and candidate.answers and report is not None and report.state is AdapterState.LOADED:
        return Instance(pod, InstanceState.LOADED, report.reason, report.message, report.attempts)
    if candidate.observed.silent or report is None:
        return Instance(
            pod,
            InstanceState.UNKNOWN,
            "SidecarUnreachable",
            candidate.observed.sidecar.problem,
            updated=candidate.updated,
        )
    if not candidate.updated:
        rejection = last_rejection(desired.load, candidate)
        if rejection is not None:
            return rejection
        waiting_for = rollout.waiting_for.get(pod.uid, "")
        if candidate.answers:
            message = f"Still serving the weights of the previous source. {waiting_for}".strip()
            return Instance(pod, InstanceState.LOADED, "Outdated", message, report.attempts, updated=False)
        return Instance(pod, InstanceState.PENDING, "Outdated", waiting_for, report.attempts, updated=False)
    if desired.missing is not None and report.reason == "CredentialsMissing":
        return Instance(pod, InstanceState.PENDING, desired.missing.reason, desired.missing.message, report.attempts)
    if report.reason == "CredentialsMissing" and (rejection := last_rejection(desired.load, candidate)) is not None:
        return rejection
    message = report.message
    if candidate.failed and candidate.answers:
        message = f"{message} Still serving the weights of the previous source.".strip()
    return Instance(pod, InstanceState(report.state.value), report.reason, message, report.attempts)


def _ordered(candidate: Candidate) -> Instance:
    return Instance(
        candidate.pod, InstanceState.PENDING, "Requested", "Load requested; waiting for the sidecar to report it."
    )


def _leaving(candidates: Iterable[Candidate], assignment: Assignment, listed: set[str]) -> Iterable[Instance]:
    """Yield the instances of the pods that unload it."""
    for candidate in candidates:
        if candidate.owned and not candidate.observed.silent and candidate.pod.uid not in listed:
            why = assignment.let_go.get(candidate.pod.uid, "" if candidate.report is None else candidate.report.message)
            yield Instance(candidate.pod, InstanceState.UNLOADING, "Unloading", why)


def _pod(draft: _Draft, observed: ObservedPod) -> None:
    """Add one pod's labels, and the unloads of what no LoraAdapter places there."""
    if observed.silent:
        return
    off = draft.off.get(observed.pod.uid, {})
    changed = labels_to_set(observed, draft.shown.get(observed.pod.uid, {}), off)
    if changed is not None:
        draft.actions.append(changed)
    kept = draft.kept.get(observed.pod.uid, ())
    for name, report in observed.reports.items():
        if name in kept or report.state is AdapterState.UNLOADING:
            continue
        if not owned(report, observed.pod.namespace) or name in observed.pod.serving:
            continue
        at = observed.drained_at(name)
        if at is not None:
            draft.requeue_times.append(at)
            continue
        request = UnloadRequest(lora_name=name, owner=report.owner, wait=0)
        if not observed.rejects(request):
            why = off.get(name) or f"{report.owner} no longer places the adapter on this pod"
            draft.actions.append(Unload(observed.pod, request, why))

"""Scheduling: which pods one LoraAdapter keeps, gets and leaves. Pure.

Comes after `candidates`, before `rollout`. `schedule_all` is for a LoraAdapter without spec.replicas,
`schedule_replicas` for one with it. What works stays where it is; whatever moves has a reason in words. Slots are
reserved in the `capacity` ledger. Nothing here orders anything: `planner` does, from the `Assignment`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.candidates import UNREACHABLE_BOUND, Candidate, Desired
from patio_operator.loraadapters.planner.capacity import CapacityLedger
from patio_operator.loraadapters.planner.filters import filtered_out, no_capacity, pending, unreachable
from patio_operator.loraadapters.planner.plan import Condition, Instance, count, names
from patio_operator.loraadapters.planner.spread import by_node, ranking

EXTRA_TRIES = 3
"""How many pods more than spec.replicas are tried when an adapter fails permanently on some."""


@dataclass
class Assignment:
    """What is decided of a LoraAdapter's pods; filled in here, read by the rest of the plan."""

    desired_replicas: int
    kept: list[Candidate] = field(default_factory=list)
    """Have it, as far as is known, and shall."""
    new: list[Candidate] = field(default_factory=list)
    """Shall have it; room is taken."""
    waiting: list[Instance] = field(default_factory=list)
    """Should have it and cannot be ordered to now, or have only a recorded failure."""
    let_go: dict[str, str] = field(default_factory=dict)
    """Pod UID to why it shall not have it any more."""
    condition: Condition | None = None
    requeue_times: list[datetime] = field(default_factory=list)
    """When to look again though nothing changed."""


def schedule_all(desired: Desired, candidates: Sequence[Candidate], capacity: CapacityLedger) -> Assignment:
    """Choose for a LoraAdapter that every matching pod should have."""
    assignment = Assignment(desired_replicas=len(candidates))
    for candidate in candidates:
        preempted = capacity.preempted(candidate.pod.uid, desired.adapter)
        if preempted is not None:
            if candidate.owned:
                assignment.let_go[candidate.pod.uid] = preempted
            assignment.waiting.append(pending(candidate, "NoCapacity", preempted))
        elif candidate.owned and not candidate.unloading:
            assignment.kept.append(candidate)
        elif (instance := filtered_out(desired, candidate)) is not None:
            assignment.waiting.append(instance)
        elif capacity.fits(candidate.pod.uid, candidate.name):
            capacity.reserve(candidate.pod.uid, candidate.name)
            assignment.new.append(candidate)
        else:
            assignment.waiting.append(_preempt(desired.adapter, candidate, capacity) or no_capacity(candidate))
    return assignment


def schedule_replicas(desired: Desired, candidates: Sequence[Candidate], capacity: CapacityLedger) -> Assignment:
    """Choose for a LoraAdapter that spec.replicas of the matching pods should have."""
    wanted = desired.adapter.spec.replicas
    assert wanted is not None
    assignment = Assignment(desired_replicas=wanted)
    have: list[Candidate] = []
    for candidate in candidates:
        preempted = capacity.preempted(candidate.pod.uid, desired.adapter)
        if preempted is not None and candidate.owned:
            assignment.let_go[candidate.pod.uid] = preempted
        elif candidate.owned and not candidate.unloading:
            have.append(candidate)
    lost = [candidate for candidate in have if candidate.observed.lost]
    failing = [candidate for candidate in have if candidate.failed and not candidate.answers]
    out = {candidate.pod.uid for candidate in (*lost, *failing)}
    working = [candidate for candidate in have if candidate.pod.uid not in out]
    assignment.requeue_times += [
        since + UNREACHABLE_BOUND
        for candidate in working
        if candidate.observed.silent and (since := candidate.observed.sidecar.unreachable_since) is not None
    ]
    if any(candidate.observed.unasked for candidate in candidates):
        # Who has it already is not known yet: to choose now would be to move what works.
        assignment.kept = have
        return assignment
    assignment.kept = _without_surplus(desired.adapter, working, wanted, assignment.let_go)
    answering = sum(candidate.answers for candidate in assignment.kept)
    recorded = _failures_on_record(failing, wanted, answering, len(assignment.kept), assignment.let_go)
    if answering < wanted:
        assignment.waiting += [
            unreachable(candidate, f"Replaced by another pod. {candidate.observed.sidecar.problem}")
            for candidate in lost
        ]
    assignment.kept += recorded
    missing = wanted - (len(assignment.kept) - len(recorded))
    if any(candidate.answers and not candidate.loaded for candidate in have):
        # A rollout: what fails now fails with the new source, and would fail on other pods as well.
        missing -= len(recorded)
    if missing > 0:
        _add(desired, candidates, missing, recorded, assignment, capacity)
    return assignment


def _without_surplus(
    adapter: LoraAdapter, working: Sequence[Candidate], wanted: int, let_go: dict[str, str]
) -> list[Candidate]:
    """Return what stays, and say of the rest why it goes."""
    surplus = len(working) - wanted
    if surplus <= 0:
        return list(working)
    crowd = Counter(candidate.pod.node for candidate in working)
    removed = by_node(
        working,
        surplus,
        lambda candidate: (candidate.answers, not candidate.observed.silent),
        crowd,
        -1,
        lambda candidate: (-_since(candidate), candidate.pod.name),
    )
    for candidate in removed:
        if not candidate.answers:
            why = "this pod has not loaded it yet"
        elif crowd[candidate.pod.node] > 1:
            why = f"{crowd[candidate.pod.node]} of them are on node {candidate.pod.node}"
        else:
            why = "this pod loaded it last"
        let_go[candidate.pod.uid] = (
            f"spec.replicas of {adapter.owner} is {wanted}, and {count(len(working))} have the adapter; {why}"
        )
    return [candidate for candidate in working if candidate.pod.uid not in let_go]


def _failures_on_record(
    failing: Sequence[Candidate], wanted: int, answering: int, working: int, let_go: dict[str, str]
) -> list[Candidate]:
    """Return the failed ones that stay: as long as they are there, the same pods are not tried once more."""
    keep = 0 if answering >= wanted else max(0, wanted + EXTRA_TRIES - working)
    for candidate in failing[keep:]:
        let_go[candidate.pod.uid] = (
            f"loading failed on this pod ({_failure_message(candidate)}), and enough other pods serve the adapter"
            if answering >= wanted
            else f"loading failed on this pod ({_failure_message(candidate)}), and other pods are tried instead"
        )
    return list(failing[:keep])


def _add(
    desired: Desired,
    candidates: Sequence[Candidate],
    missing: int,
    recorded: Sequence[Candidate],
    assignment: Assignment,
    capacity: CapacityLedger,
) -> None:
    """Find pods for what is missing, and say what is in the way where there are none."""
    if not candidates:
        assignment.condition = Condition("NoMatchingPods", "No pod with a sidecar matches.")
        return
    if desired.missing is not None:
        assignment.condition = desired.missing
        return
    taken = {candidate.pod.uid for candidate in assignment.kept} | assignment.let_go.keys()
    filtered: list[Instance] = []
    free: list[Candidate] = []
    full: list[Candidate] = []
    rejected = 0
    for candidate in candidates:
        if candidate.pod.uid in taken or (candidate.owned and candidate.observed.silent):
            continue
        instance = filtered_out(desired, candidate)
        if instance is not None:
            rejected += instance.reason == "SidecarRejected"
            filtered.append(instance)
        elif candidate.observed.sidecar.answer is not None and not candidate.observed.sidecar.answer.engine_ready:
            filtered.append(pending(candidate, "EngineNotReady", "The engine is not ready."))
        elif capacity.fits(candidate.pod.uid, candidate.name):
            free.append(candidate)
        else:
            full.append(candidate)
    tries = assignment.desired_replicas + EXTRA_TRIES - len(assignment.kept) - rejected
    crowd = Counter(candidate.pod.node for candidate in assignment.kept)
    rank = ranking(desired, capacity)
    for candidate in by_node(free, min(missing, tries), lambda _: (), crowd, 1, rank):
        capacity.reserve(candidate.pod.uid, candidate.name)
        assignment.new.append(candidate)
    short = missing - len(assignment.new)
    for candidate in sorted(
        full, key=lambda candidate: (not capacity.is_becoming_free(candidate.pod.uid), *rank(candidate))
    ):
        # What fails on other pods preempts nothing.
        made = _preempt(desired.adapter, candidate, capacity) if short > 0 and not recorded else None
        if made is None:
            filtered.append(no_capacity(candidate))
        else:
            assignment.waiting.append(made)
            short -= 1
    if short > 0:
        assignment.condition = _short(assignment, recorded, filtered, short)


def _short(
    assignment: Assignment, recorded: Sequence[Candidate], filtered: Sequence[Instance], short: int
) -> Condition:
    """Say why there are fewer pods than spec.replicas asks for."""
    found = assignment.desired_replicas - short
    summary = f"Found {found} of {count(assignment.desired_replicas)}"
    failed = next((candidate.report for candidate in recorded), None)
    if failed is not None:
        pods = [candidate.pod.name for candidate in recorded]
        message = f"Loading failed on {names(pods)}, and no more pods are tried. {pods[0]}: {failed.message}"
        return Condition(failed.reason, f"{summary}. {message}")
    if not filtered:
        return Condition("NotEnoughPods", f"{summary}. No other pod with a sidecar matches.")
    kinds = {
        reason: [instance for instance in filtered if instance.reason == reason]
        for reason in (instance.reason for instance in filtered)
    }
    worst = min(kinds, key=lambda reason: (_WEIGHT.index(reason) if reason in _WEIGHT else len(_WEIGHT), reason))
    groups = "; ".join(
        f"{names([instance.pod.name for instance in kind])}: {kind[0].message}" for kind in kinds.values()
    )
    return Condition(worst, f"{summary}. {groups}")


_WEIGHT = (
    *("NoCapacity", "NameTaken", "TokenReviewForbidden", "SidecarUnproven", "SidecarRejected", "TokenNotReviewed"),
    *("WaitingForUnload", "EngineNotReady"),
)
"""Of what is in the way, the first of these is named."""


def _preempt(adapter: LoraAdapter, candidate: Candidate, capacity: CapacityLedger) -> Instance | None:
    """Have another LoraAdapter make room, if this one is pinned; None: nothing can be done."""
    if not adapter.spec.pinned:
        return None
    uid = candidate.pod.uid
    if capacity.reserve_freed(uid):
        return pending(candidate, "Preempting", "The engine is at capacity. Another adapter is being unloaded.")
    victim = capacity.victim(uid)
    if victim is None:
        return None
    capacity.preempt(uid, victim, adapter)
    message = f"The engine is at capacity. Preempting {victim.owner}, which is not pinned."
    return pending(candidate, "Preempting", message)


def _since(candidate: Candidate) -> float:
    return 0.0 if candidate.report is None else candidate.report.since


def _failure_message(candidate: Candidate) -> str:
    return "" if candidate.report is None else candidate.report.message or candidate.report.reason

"""Which pods one LoraAdapter has, gets and leaves. Pure.

Comes after `spots`, before `rollout`. Two ways: `everywhere` for a LoraAdapter without spec.replicas, `some` for one
with it. What works stays where it is; whatever moves has a reason in words. Room is taken from `rooms` as it is given
away. Nothing here orders anything: `planner` does, from the `Choice`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.placement.obstacles import Refusals, no_room, obstacle_of, pending, silent
from patio_operator.placement.plans import Placed, Trouble
from patio_operator.placement.rooms import Rooms
from patio_operator.placement.spots import UNREACHABLE_BOUND, Spot, Terms
from patio_operator.placement.spreading import by_node, ranking
from patio_operator.placement.words import count, names

EXTRA_TRIES = 3
"""How many pods more than spec.replicas are tried when an adapter fails on some for good."""


@dataclass
class Choice:
    """What is decided of a LoraAdapter's pods; filled in here, read by the rest of the plan."""

    desired: int
    kept: list[Spot] = field(default_factory=list)
    """Have it, as far as is known, and shall."""
    new: list[Spot] = field(default_factory=list)
    """Shall have it; room is taken."""
    waiting: list[Placed] = field(default_factory=list)
    """Should have it and cannot be told so now, or hold nothing but a failure on record."""
    let_go: dict[str, str] = field(default_factory=dict)
    """Pod UID to why it shall not have it any more."""
    trouble: Trouble | None = None
    times: list[datetime] = field(default_factory=list)
    """When to look again though nothing changed."""


def everywhere(terms: Terms, spots: Sequence[Spot], rooms: Rooms, refusals: Refusals, now: datetime) -> Choice:
    """Choose for a LoraAdapter that every matching pod should have."""
    choice = Choice(desired=len(spots))
    for spot in spots:
        displaced = rooms.displaced(spot.pod.uid, terms.adapter)
        if displaced is not None:
            if spot.mine:
                choice.let_go[spot.pod.uid] = displaced
            choice.waiting.append(pending(spot, "NoCapacity", displaced))
        elif spot.mine and not spot.going:
            choice.kept.append(spot)
        elif (obstacle := obstacle_of(terms, spot, refusals, now)) is not None:
            choice.waiting.append(obstacle)
        elif rooms.fits(spot.pod.uid, spot.name):
            rooms.take(spot.pod.uid, spot.name)
            choice.new.append(spot)
        else:
            choice.waiting.append(_make_room(terms.adapter, spot, rooms) or no_room(spot))
    return choice


def some(terms: Terms, spots: Sequence[Spot], rooms: Rooms, refusals: Refusals, now: datetime) -> Choice:
    """Choose for a LoraAdapter that spec.replicas of the matching pods should have."""
    wanted = terms.adapter.spec.replicas
    assert wanted is not None
    choice = Choice(desired=wanted)
    have: list[Spot] = []
    for spot in spots:
        displaced = rooms.displaced(spot.pod.uid, terms.adapter)
        if displaced is not None and spot.mine:
            choice.let_go[spot.pod.uid] = displaced
        elif spot.mine and not spot.going:
            have.append(spot)
    lost = [spot for spot in have if spot.lost(now)]
    failing = [spot for spot in have if spot.failed and not spot.answers]
    out = {spot.pod.uid for spot in (*lost, *failing)}
    working = [spot for spot in have if spot.pod.uid not in out]
    choice.times += [
        since + UNREACHABLE_BOUND
        for spot in working
        if spot.host.silent and (since := spot.host.view.unreachable_since) is not None
    ]
    if any(spot.host.unasked for spot in spots):
        # Who has it already is not known yet: to choose now would be to move what works.
        choice.kept = have
        return choice
    choice.kept = _without_surplus(terms.adapter, working, wanted, choice.let_go)
    answering = sum(spot.answers for spot in choice.kept)
    recorded = _failures_on_record(failing, wanted, answering, len(choice.kept), choice.let_go)
    if answering < wanted:
        choice.waiting += [silent(spot, f"Another pod takes its place. {spot.host.view.problem}") for spot in lost]
    choice.kept += recorded
    missing = wanted - (len(choice.kept) - len(recorded))
    if any(spot.answers and not spot.loaded for spot in have):
        # A rollout: what fails now fails with the new source, and would fail on other pods as well.
        missing -= len(recorded)
    if missing > 0:
        _add(terms, spots, missing, recorded, choice, rooms, refusals, now)
    return choice


def _without_surplus(adapter: LoraAdapter, working: Sequence[Spot], wanted: int, let_go: dict[str, str]) -> list[Spot]:
    """Return what stays, and say of the rest why it goes."""
    surplus = len(working) - wanted
    if surplus <= 0:
        return list(working)
    crowd = Counter(spot.pod.node for spot in working)
    going = by_node(
        working,
        surplus,
        lambda spot: (spot.answers, not spot.host.silent),
        crowd,
        -1,
        lambda spot: (-_since(spot), spot.pod.name),
    )
    for spot in going:
        if not spot.answers:
            why = "it does not answer here yet"
        elif crowd[spot.pod.node] > 1:
            why = f"node {spot.pod.node} has it {crowd[spot.pod.node]} times"
        else:
            why = "it was loaded here last"
        let_go[spot.pod.uid] = f"{adapter.owner} wants it on {count(wanted)}, not on {len(working)}; {why}"
    return [spot for spot in working if spot.pod.uid not in let_go]


def _failures_on_record(
    failing: Sequence[Spot], wanted: int, answering: int, working: int, let_go: dict[str, str]
) -> list[Spot]:
    """Return the failed ones that stay: as long as they are there, the same pods are not tried once more."""
    room = 0 if answering >= wanted else max(0, wanted + EXTRA_TRIES - working)
    for spot in failing[room:]:
        let_go[spot.pod.uid] = (
            f"it failed here ({_words(spot)}) and {count(answering)} have it"
            if answering >= wanted
            else f"it failed here ({_words(spot)}) and enough other pods are tried"
        )
    return list(failing[:room])


def _add(
    terms: Terms,
    spots: Sequence[Spot],
    missing: int,
    recorded: Sequence[Spot],
    choice: Choice,
    rooms: Rooms,
    refusals: Refusals,
    now: datetime,
) -> None:
    """Find pods for what is missing, and say what is in the way where there are none."""
    if not spots:
        choice.trouble = Trouble("NoMatchingPods", "No pod with a sidecar matches.")
        return
    if terms.missing is not None:
        choice.trouble = Trouble(terms.missing.reason, terms.missing.message)
        return
    taken = {spot.pod.uid for spot in choice.kept} | choice.let_go.keys()
    obstacles: list[Placed] = []
    free: list[Spot] = []
    full: list[Spot] = []
    refused = 0
    for spot in spots:
        if spot.pod.uid in taken or (spot.mine and spot.host.silent):
            continue
        obstacle = obstacle_of(terms, spot, refusals, now)
        if obstacle is not None:
            refused += obstacle.reason == "SidecarRefused"
            obstacles.append(obstacle)
        elif spot.host.view.answer is not None and not spot.host.view.answer.engine_ready:
            obstacles.append(pending(spot, "EngineNotReady", "Its engine is not ready."))
        elif rooms.fits(spot.pod.uid, spot.name):
            free.append(spot)
        else:
            full.append(spot)
    tries = choice.desired + EXTRA_TRIES - len(choice.kept) - refused
    crowd = Counter(spot.pod.node for spot in choice.kept)
    rank = ranking(terms, rooms)
    for spot in by_node(free, min(missing, tries), lambda _: (), crowd, 1, rank):
        rooms.take(spot.pod.uid, spot.name)
        choice.new.append(spot)
    short = missing - len(choice.new)
    for spot in sorted(full, key=lambda one: (not rooms.is_becoming_free(one.pod.uid), *rank(one))):
        # What fails elsewhere takes nobody's place.
        made = _make_room(terms.adapter, spot, rooms) if short > 0 and not recorded else None
        if made is None:
            obstacles.append(no_room(spot))
        else:
            choice.waiting.append(made)
            short -= 1
    if short > 0:
        choice.trouble = _short(choice, recorded, obstacles, short)


def _short(choice: Choice, recorded: Sequence[Spot], obstacles: Sequence[Placed], short: int) -> Trouble:
    """Say why there are fewer pods than spec.replicas asks for."""
    found = choice.desired - short
    told = f"{found} of {count(choice.desired)} found"
    failed = next((spot.report for spot in recorded), None)
    if failed is not None:
        pods = [spot.pod.name for spot in recorded]
        words = f"it failed on {names(pods)}, and no more pods are tried. {pods[0]}: {failed.message}"
        return Trouble(failed.reason, f"{told}: {words}")
    if not obstacles:
        return Trouble("NotEnoughPods", f"{told}: no other pod with a sidecar matches.")
    kinds = {reason: [one for one in obstacles if one.reason == reason] for reason in (one.reason for one in obstacles)}
    worst = min(kinds, key=lambda reason: (_WEIGHT.index(reason) if reason in _WEIGHT else len(_WEIGHT), reason))
    groups = "; ".join(f"{names([one.pod.name for one in kind])}: {kind[0].message}" for kind in kinds.values())
    return Trouble(worst, f"{told}. {groups}")


_WEIGHT = (
    *("NoCapacity", "NameTaken", "TokenReviewForbidden", "SidecarUnproven", "SidecarRefused", "TokenNotReviewed"),
    *("WaitingForUnload", "EngineNotReady"),
)
"""Of what is in the way, the first of these is named."""


def _make_room(adapter: LoraAdapter, spot: Spot, rooms: Rooms) -> Placed | None:
    """Have another LoraAdapter make room, if this one is pinned; None: nothing can be done."""
    if not adapter.spec.pinned:
        return None
    uid = spot.pod.uid
    if rooms.wait_for(uid):
        return pending(spot, "MakingRoom", "The engine has no room; another adapter is being unloaded.")
    victim = rooms.victim(uid)
    if victim is None:
        return None
    rooms.displace(uid, victim, adapter)
    words = f"The engine has no room; {victim.owner}, which is not pinned, is unloaded to make some."
    return pending(spot, "MakingRoom", words)


def _since(spot: Spot) -> float:
    return 0.0 if spot.report is None else spot.report.since


def _words(spot: Spot) -> str:
    return "" if spot.report is None else spot.report.message or spot.report.reason

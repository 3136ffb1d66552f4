"""Why a pod cannot be told to load an adapter, in the words that its status gets. Pure.

Used by `placing`, which passes such pods over, by `rollout` and by `planner` for what a sidecar refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from patio_operator.placement.plans import Order, Placed, PlacedState, Refusal
from patio_operator.placement.spots import Spot, Terms, owned
from patio_operator.placement.words import count

Refusals = Mapping[tuple[str, Order], Refusal]
"""By pod UID and order."""


def obstacle_of(terms: Terms, spot: Spot, refusals: Refusals, now: datetime) -> Placed | None:
    """Return why a pod cannot be told to load the adapter, room aside."""
    if spot.holder is not None:
        return taken(spot, spot.holder.owner)
    if spot.host.silent:
        return silent(spot, spot.host.view.problem)
    report = spot.report
    if report is not None and not spot.mine:
        if owned(report, spot.pod.namespace):
            words = f"The sidecar is letting go of the adapter of that name that {report.owner} had."
            return pending(spot, "WaitingForUnload", words)
        return taken(spot, "whoever loaded it by hand" if report.owner is None else report.owner)
    if terms.missing is not None:
        return pending(spot, terms.missing.reason, terms.missing.message)
    answer = spot.host.view.answer
    if terms.adapter.spec.base_model is not None and answer is not None and not answer.base_models:
        return pending(spot, "EngineNotReady", "Its engine has not told yet which base model it serves.")
    return refused(terms.load, spot, refusals, now)


def refused(order: Order, spot: Spot, refusals: Refusals, now: datetime) -> Placed | None:
    """Return what is to be said of a pod whose sidecar did not take this very order, until it may be given again."""
    refusal = refusals.get((spot.pod.uid, order))
    return None if refusal is None or refusal.until <= now else told_refusal(order, spot, refusals)


def told_refusal(order: Order, spot: Spot, refusals: Refusals) -> Placed | None:
    """Return what is to be said of a refusal, also while the order is tried once more."""
    refusal = refusals.get((spot.pod.uid, order))
    if refusal is None:
        return None
    state = PlacedState.PENDING if refusal.retryable else PlacedState.FAILED
    return Placed(spot.pod, state, refusal.reason, refusal.message)


def no_room(spot: Spot) -> Placed:
    """Return that the engine holds no more adapters."""
    answer = spot.host.view.answer
    limit = None if answer is None else answer.capacity.loaded
    words = f"The engine holds {count(limit or 0, 'adapter')} at most, and that many are there."
    return pending(spot, "NoCapacity", words)


def taken(spot: Spot, holder: str) -> Placed:
    """Return that the name is somebody else's on this pod."""
    words = f"The name {spot.name!r} on this pod belongs to {holder}. Give one of them another spec.adapterName."
    return Placed(spot.pod, PlacedState.FAILED, "NameTaken", words)


def silent(spot: Spot, words: str) -> Placed:
    """Return that a sidecar does not answer: not any more, or not yet."""
    if spot.mine or spot.host.view.ever_answered:
        return Placed(spot.pod, PlacedState.UNKNOWN, "SidecarUnreachable", words)
    return pending(spot, "SidecarStarting", words)


def pending(spot: Spot, reason: str, words: str) -> Placed:
    """Return that the adapter is to come to this pod, and why not now."""
    return Placed(spot.pod, PlacedState.PENDING, reason, words)

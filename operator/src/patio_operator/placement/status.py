"""What users read of a LoraAdapter: counts, conditions, one entry a pod, and the events of what changed. Pure.

Takes how the adapter stands on each of its pods (`Placed`, from the planner) and the status that is there; gives the
status to be, equal to the one that is there when nothing changed, so that nothing is written then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio_operator.api.conditions import condition, find
from patio_operator.api.loraadapter import MAX_INSTANCES, LoraAdapter
from patio_operator.placement.plans import Placed, PlacedState, Placement

MAX_MESSAGE = 1024


@dataclass(frozen=True)
class Happened:
    """An event to record: type is Normal or Warning."""

    type: str
    reason: str
    message: str


_ORDER = {PlacedState.FAILED: 0, PlacedState.UNKNOWN: 1, PlacedState.LOADED: 3}
"""Troubles first, since the list is capped; everything on its way between them and what is loaded."""


def status(adapter: LoraAdapter, placement: Placement, before: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the status of a LoraAdapter.

    Args:
        adapter: the LoraAdapter, as it was planned from.
        placement: how it stands.
        before: the status that is there, for the times of what did not change.
        now: the time of what did.

    """
    placed = placement.placed
    states = Counter(one.state for one in placed)
    ready, failed = states[PlacedState.LOADED], states[PlacedState.FAILED]
    unknown = states[PlacedState.UNKNOWN]
    moving = len(placed) - ready - failed - unknown
    shown = sorted(placed, key=lambda one: (_ORDER.get(one.state, 2), one.pod.name))[:MAX_INSTANCES]
    conditions, generation = before.get("conditions") or [], adapter.metadata.generation
    return {
        "observedGeneration": generation,
        "adapterName": adapter.adapter_name,
        "desiredReplicas": len(placed),
        "readyReplicas": ready,
        "loadingReplicas": moving,
        "failedReplicas": failed,
        "conditions": [
            condition(conditions, type_, value, reason, message[:MAX_MESSAGE], generation, now)
            for type_, value, reason, message in (
                _ready(placed, ready, failed, unknown),
                _progressing(placed, moving),
                _degraded(placed, failed, unknown),
            )
        ],
        "instances": [_instance(one, before.get("instances") or [], now) for one in shown],
    }


def events(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Happened, ...]:
    """Return what to tell of the change from one status to the next: each new verdict, once."""
    told: list[Happened] = []
    ready, was = find(after, "Ready"), find(before, "Ready")
    if ready["status"] == "True" and was.get("status") != "True":
        told.append(Happened("Normal", ready["reason"], ready["message"]))
    elif ready["status"] == "False" and was.get("status") == "True":
        told.append(Happened("Warning", "NotReady", ready["message"]))
    # The status read may be one that somebody else wrote: the schema asks for little.
    known = {(one.get("pod"), one.get("reason"), one.get("message")) for one in before.get("instances") or []}
    fresh: dict[tuple[str, str], list[str]] = {}
    for one in after["instances"]:
        if one["state"] == PlacedState.FAILED and (one["pod"], one["reason"], one["message"]) not in known:
            fresh.setdefault((one["reason"], one["message"]), []).append(one["pod"])
    for (reason, message), pods in fresh.items():
        told.append(Happened("Warning", reason, f"{_names(pods)}: {message}"))
    return tuple(told)


def _ready(placed: Sequence[Placed], ready: int, failed: int, unknown: int) -> tuple[str, str, str, str]:
    if not placed:
        return (
            "Ready",
            "False",
            "NoMatchingPods",
            ("No pod with a sidecar matches. Check spec.selector or spec.roleRef, and that the pods are injected."),
        )
    if ready == len(placed):
        return "Ready", "True", "Loaded", f"The adapter is loaded on {_count(ready)}."
    worst = _worst(placed)
    told = f"The adapter is loaded on {ready} of {_count(len(placed))}. {_said(worst)}"
    if failed:
        return "Ready", "False", worst.reason, told
    return "Ready", "False", "SidecarUnreachable" if unknown else "Loading", told


def _progressing(placed: Sequence[Placed], moving: int) -> tuple[str, str, str, str]:
    if not moving:
        return "Progressing", "False", "Settled", "Nothing is under way."
    names = _names([one.pod.name for one in placed if one.state not in _ORDER])
    return "Progressing", "True", "Loading", f"Under way on {names}."


def _degraded(placed: Sequence[Placed], failed: int, unknown: int) -> tuple[str, str, str, str]:
    if not failed and not unknown:
        return "Degraded", "False", "AsDeclared", "No pod has a fault."
    worst = _worst(placed)
    bad = [one.pod.name for one in placed if one.state in (PlacedState.FAILED, PlacedState.UNKNOWN)]
    return "Degraded", "True", worst.reason, f"{_names(bad)}. {_said(worst)}"


def _worst(placed: Sequence[Placed]) -> Placed:
    return min(placed, key=lambda one: (_ORDER.get(one.state, 2), one.pod.name))


def _said(one: Placed) -> str:
    return f"{one.pod.name}: {one.message or one.reason}"


def _instance(one: Placed, before: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, Any]:
    since = next(
        (
            str(was["since"])
            for was in before
            if (was.get("pod"), was.get("state"), was.get("reason")) == (one.pod.name, one.state, one.reason)
            and "since" in was
        ),
        now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    return {
        "pod": one.pod.name,
        "node": one.pod.node,
        "state": one.state.value,
        "reason": one.reason,
        "message": one.message[:MAX_MESSAGE],
        "attempts": one.attempts,
        "since": since,
    }


def _count(pods: int) -> str:
    return "1 pod" if pods == 1 else f"{pods} pods"


def _names(pods: Sequence[str]) -> str:
    shown = ", ".join(pods[:3])
    return shown if len(pods) <= 3 else f"{shown} and {len(pods) - 3} more"

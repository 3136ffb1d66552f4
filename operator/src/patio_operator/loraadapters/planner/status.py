"""What users read of a LoraAdapter: counts, conditions, one entry a pod, and the events of what changed. Pure.

Takes how the adapter stands (`Placement`, from the planner) and the status that is there; gives the status to be, equal
to the one that is there when nothing changed, so that nothing is written then. Everything in it has a bound: messages
are cut, pods beyond `MAX_INSTANCES` are only counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio_api.conditions import TIME_FORMAT, find, next_condition
from patio_api.events import Event
from patio_api.labels import adapter_selector
from patio_api.loraadapter import MAX_INSTANCES, LoraAdapter
from patio_operator.loraadapters.planner.plan import Instance, InstanceState, Placement, count, names
from patio_operator.loraadapters.planner.selection import is_deleting

MAX_MESSAGE = 1024
"""Characters of a condition's message."""
MAX_INSTANCE_MESSAGE = 512
"""Characters of the message of one of many."""

MAX_FAILURE_EVENTS = 5
"""Different faults that become events at once; the status has them all."""

STUCK = frozenset(
    (
        *("NoCapacity", "SidecarRejected", "SidecarUnproven", "TokenReviewForbidden", "TokenNotReviewed"),
        *("SecretNotRead", "SecretNotFound", "SecretIncomplete", "SecretForbidden", "InsecureEndpoint"),
    )
)
"""Reasons for Pending while nothing is in progress on that pod."""
NOT_DEGRADED = frozenset(
    ("NoMatchingPods", "NotEnoughPods", "EngineNotReady", "SidecarStarting", "WaitingForUnload", "SecretNotRead")
)
"""Reasons that are no errors: they pass, or wait for pods. Nothing is Degraded for one of them."""


RecordedInstance = tuple[str, str, str, int]
"""What a status says of one pod: state, reason, since, and a hash of the rest, in this process. A plain tuple of plain
values is nothing that the garbage collector looks at."""


@dataclass(frozen=True, slots=True)
class RecordedStatus:
    """What a status says, as far as the next one depends on it: a fleet's statuses whole would be hundreds of MB."""

    rest: Mapping[str, Any]
    """Everything but the instances."""
    instances: Mapping[str, RecordedInstance]
    """By the pod's name."""


@dataclass(frozen=True)
class _Standing:
    """A placement, counted."""

    adapter: LoraAdapter
    placement: Placement
    ready: int
    updated: int
    moving: tuple[Instance, ...]
    failed: tuple[Instance, ...]
    unknown: tuple[Instance, ...]
    stuck: tuple[Instance, ...]

    @property
    def faulty(self) -> tuple[Instance, ...]:
        return (
            *self.failed,
            *self.unknown,
            *(instance for instance in self.stuck if instance.reason not in NOT_DEGRADED),
        )

    @property
    def rolling(self) -> tuple[Instance, ...]:
        return tuple(
            instance
            for instance in self.placement.instances
            if not instance.updated and instance.state is InstanceState.LOADED
        )

    @property
    def stopped(self) -> bool:
        return self.placement.condition is not None and self.placement.condition.reason == "RolloutStopped"


_ORDER = {InstanceState.FAILED: 0, InstanceState.UNKNOWN: 1, InstanceState.LOADED: 3, InstanceState.UNLOADING: 4}
"""Troubles first, since the list is capped; everything on its way between them and what is loaded."""


def recorded(status: Mapping[str, Any]) -> RecordedStatus:
    """Reduce a status, as the API server has it."""
    instances = [entry for entry in status.get("instances") or [] if isinstance(entry, dict)]
    return RecordedStatus(
        {name: value for name, value in status.items() if name != "instances"},
        {sys.intern(str(entry.get("pod"))): _recorded_instance(entry) for entry in instances},
    )


def is_recorded(before: RecordedStatus, after: Mapping[str, Any]) -> bool:
    """Tell whether a status that is there says what a new one says."""
    instances, previous = after["instances"], before.instances
    if len(instances) != len(previous) or before.rest.keys() != after.keys() - {"instances"}:
        return False
    if any(after[name] != value for name, value in before.rest.items()):
        return False
    return all(
        previous.get(entry["pod"]) == (entry["state"], entry["reason"], entry["since"], _rest(entry))
        for entry in instances
    )


def _recorded_instance(entry: Mapping[str, Any]) -> RecordedInstance:
    state, reason, since = (sys.intern(str(entry.get(name) or "")) for name in ("state", "reason", "since"))
    return state, reason, since, _rest(entry)


def _rest(entry: Mapping[str, Any]) -> int:
    return hash((str(entry.get("node") or ""), str(entry.get("message") or ""), entry.get("attempts") or 0))


def status(adapter: LoraAdapter, placement: Placement, before: RecordedStatus, now: datetime) -> dict[str, Any]:
    """Return the status of a LoraAdapter.

    Args:
        adapter: the LoraAdapter, as it was planned from.
        placement: how it stands.
        before: what the status that is there says, for the times of what did not change.
        now: the time of what did.

    """
    standing = _counted(adapter, placement)
    shown = sorted(placement.instances, key=_worst_first)[:MAX_INSTANCES]
    conditions, generation = before.rest.get("conditions") or [], adapter.metadata.generation
    since = now.strftime(TIME_FORMAT)
    return {
        "observedGeneration": generation,
        "adapterName": adapter.adapter_name,
        "desiredReplicas": placement.desired_replicas,
        "readyReplicas": standing.ready,
        "updatedReplicas": standing.updated,
        "loadingReplicas": len(standing.moving) + len(standing.stuck),
        "failedReplicas": len(standing.failed),
        "selector": adapter_selector(adapter.adapter_name, adapter.metadata.uid),
        "conditions": [
            next_condition(conditions, type_, value, reason, _cut(message, MAX_MESSAGE), generation, now)
            for type_, (value, reason, message) in (
                ("Ready", _ready(standing)),
                ("Progressing", _progressing(standing)),
                ("Degraded", _degraded(standing)),
            )
        ],
        "instances": [_instance(instance, before.instances.get(instance.pod.name), since) for instance in shown],
    }


def events(before: RecordedStatus, after: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return what to tell of the change from one status to the next: each new verdict, once."""
    recorded_events: list[Event] = []
    ready, previous = find(after, "Ready"), find(before.rest, "Ready")
    if ready["status"] == "True" and previous.get("status") != "True":
        recorded_events.append(Event("Normal", ready["reason"], ready["message"]))
    elif ready["status"] == "False" and previous.get("status") == "True":
        spec_changed = after["observedGeneration"] != before.rest.get("observedGeneration")
        if spec_changed or after["readyReplicas"] >= before.rest.get("readyReplicas", 0):
            recorded_events.append(Event("Normal", ready["reason"], ready["message"]))
        else:
            recorded_events.append(Event("Warning", "NotReady", ready["message"]))
    # The status read may be one that another client wrote: the schema asks for little. The message is not compared: one
    # and the same failure may have another number each time.
    previous_reasons = {(pod, reason) for pod, (_, reason, _, _) in before.instances.items()}
    new_failures: dict[tuple[str, str], list[str]] = {}
    for entry in after["instances"]:
        if entry["state"] == InstanceState.FAILED and (entry["pod"], entry["reason"]) not in previous_reasons:
            new_failures.setdefault((entry["reason"], entry["message"]), []).append(entry["pod"])
    failures = [
        Event("Warning", reason, f"{names(pods)}: {message}") for (reason, message), pods in new_failures.items()
    ]
    recorded_events += failures[:MAX_FAILURE_EVENTS]
    degraded, previous = find(after, "Degraded"), find(before.rest, "Degraded")
    new = degraded["status"] == "True" and (previous.get("status"), previous.get("reason")) != (
        "True",
        degraded["reason"],
    )
    if new and degraded["reason"] not in {reason for reason, _ in new_failures} | {"SidecarUnreachable"}:
        recorded_events.append(Event("Warning", degraded["reason"], degraded["message"]))
    return tuple(recorded_events)


def _counted(adapter: LoraAdapter, placement: Placement) -> _Standing:
    def of(*states: InstanceState) -> tuple[Instance, ...]:
        return tuple(instance for instance in placement.instances if instance.state in states)

    loaded = of(InstanceState.LOADED)
    on_the_way = of(InstanceState.PENDING, InstanceState.DOWNLOADING, InstanceState.LOADING)
    return _Standing(
        adapter,
        placement,
        ready=len(loaded),
        updated=sum(instance.updated for instance in loaded),
        moving=tuple(instance for instance in on_the_way if instance.reason not in STUCK),
        failed=of(InstanceState.FAILED),
        unknown=of(InstanceState.UNKNOWN),
        stuck=tuple(instance for instance in on_the_way if instance.reason in STUCK),
    )


def _ready(standing: _Standing) -> tuple[str, str, str]:
    placement, desired_replicas = standing.placement, standing.placement.desired_replicas
    if is_deleting(standing.adapter) and placement.condition is not None:
        return "False", placement.condition.reason, placement.condition.message
    if standing.adapter.spec.replicas == 0:
        return "False", "ScaledToZero", "spec.replicas is 0: no pod has the adapter."
    if desired_replicas == 0 or (placement.condition is not None and placement.condition.reason == "NoMatchingPods"):
        return (
            "False",
            "NoMatchingPods",
            "No pod with a sidecar matches. Check spec.selector or spec.roleRef, and that the pods are injected.",
        )
    if standing.updated >= desired_replicas:
        return "True", "Loaded", f"The adapter is loaded on {count(standing.updated)}."
    summary = f"The adapter is loaded on {standing.ready} of {count(desired_replicas)}."
    if standing.updated < standing.ready:
        serve = "serves" if standing.updated == 1 else "serve"
        summary = f"{summary} {standing.updated} of them {serve} the current source."
    worst = min(placement.instances, key=_worst_first, default=None)
    if placement.condition is not None and (standing.stopped or not standing.failed):
        return "False", placement.condition.reason, f"{summary} {placement.condition.message}"
    if worst is not None and standing.failed and (standing.adapter.spec.replicas is None or not standing.moving):
        return "False", worst.reason, f"{summary} {_message(worst)}"
    if standing.unknown:
        return "False", "SidecarUnreachable", f"{summary} {_message(standing.unknown[0])}"
    if standing.stuck:
        return "False", standing.stuck[0].reason, f"{summary} {_message(standing.stuck[0])}"
    if standing.rolling or standing.updated < standing.ready:
        waiting = standing.moving[0] if standing.moving else standing.rolling[0]
        return "False", "RollingOut", f"{summary} {_message(waiting)}"
    return "False", "Loading", f"{summary} {_message(standing.moving[0])}" if standing.moving else summary


def _progressing(standing: _Standing) -> tuple[str, str, str]:
    leaving = [
        instance.pod.name for instance in standing.placement.instances if instance.state is InstanceState.UNLOADING
    ]
    if standing.moving:
        rolling = bool(standing.rolling) and not standing.stopped
        pods = names([instance.pod.name for instance in standing.moving])
        return "True", "RollingOut" if rolling else "Loading", f"In progress on {pods}."
    if standing.rolling and standing.placement.condition is None:
        return "True", "RollingOut", f"{_message(standing.rolling[0])}"
    if leaving:
        return "True", "Unloading", f"Unloading from {names(leaving)}."
    if standing.placement.condition is not None:
        return "False", standing.placement.condition.reason, "Nothing is in progress."
    return "False", "Complete", "Nothing is in progress."


def _degraded(standing: _Standing) -> tuple[str, str, str]:
    condition = standing.placement.condition
    messages = list(_by_failure(standing.faulty))
    if condition is not None and condition.reason not in NOT_DEGRADED:
        return "True", condition.reason, "; ".join([condition.message, *messages])
    if not messages:
        return "False", "AsExpected", "No pod reports an error."
    worst = min(standing.faulty, key=_worst_first)
    return "True", worst.reason, "; ".join(messages)


def _by_failure(faulty: Iterable[Instance]) -> Iterable[str]:
    """Say each fault once, with the pods that have it, the worst first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for instance in sorted(faulty, key=_worst_first):
        groups.setdefault((instance.reason, instance.message), []).append(instance.pod.name)
    for (reason, message), pods in groups.items():
        yield f"{names(pods)}: {_cut(message, MAX_INSTANCE_MESSAGE) or reason}"


def _worst_first(instance: Instance) -> tuple[int, bool, str]:
    return _ORDER.get(instance.state, 2), instance.reason not in STUCK, instance.pod.name


def _message(instance: Instance) -> str:
    return f"{instance.pod.name}: {instance.message or instance.reason}"


def _instance(instance: Instance, previous: RecordedInstance | None, now: str) -> dict[str, Any]:
    same = previous is not None and previous[2] and previous[0] == instance.state and previous[1] == instance.reason
    return {
        "pod": instance.pod.name,
        "node": instance.pod.node,
        "state": instance.state.value,
        "reason": instance.reason,
        "message": _cut(instance.message, MAX_INSTANCE_MESSAGE),
        "attempts": instance.attempts,
        "since": previous[2] if previous is not None and same else now,
    }


def _cut(message: str, most: int) -> str:
    return message if len(message) <= most else f"{message[: most - 3]}..."

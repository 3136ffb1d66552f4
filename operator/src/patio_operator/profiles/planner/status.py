"""A profile's status, and the events that its changes are.

Comes last: from what `planner` has decided. A status that has not changed is equal to the one before, times included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio_api.conditions import find, next_condition
from patio_api.events import Event
from patio_api.profile import ClusterEngineRuntimeProfile, Rolling
from patio_operator.pods.profile_use import WorkloadRef
from patio_operator.profiles.validation import DryRunResult

ACCEPTED = "Accepted"
ROLLED_OUT = "RolledOut"
MOST_NAMED = 5


@dataclass(frozen=True)
class Skipped:
    """Pods that are behind and are not rolled."""

    what: str
    """`of` their workload, or `made by` what is none that Patio rolls."""
    why: str
    pods: int


@dataclass(frozen=True)
class State:
    """Where a profile stands."""

    revision: str
    pods: int
    behind: int
    dry_run: DryRunResult
    rolling: tuple[Rolling, ...] = ()
    waiting: int = 0
    """Workloads whose turn is still to come."""
    failed: tuple[tuple[WorkloadRef, str], ...] = ()
    """Workloads that do not become ready, and why."""
    left: tuple[Skipped, ...] = ()


def status_of(profile: ClusterEngineRuntimeProfile, state: State, now: datetime) -> dict[str, Any]:
    """Return the status to write."""
    before = profile.status.to_api().get("conditions") or []
    generation = profile.metadata.generation
    accepted = next_condition(before, ACCEPTED, *_accepted(state.dry_run), generation, now)
    rolled_out = next_condition(before, ROLLED_OUT, *_rolled_out(profile, state), generation, now)
    status = {
        "observedGeneration": generation,
        "revision": state.revision,
        "pods": state.pods,
        "currentPods": state.pods - state.behind,
        "behindPods": state.behind,
        "conditions": [accepted, rolled_out],
    }
    if state.dry_run.problems:
        status["lastError"] = accepted["message"]
    elif state.failed:
        status["lastError"] = rolled_out["message"]
    if state.rolling:
        status["rolling"] = [
            entry.to_api() | {"since": entry.since.strftime("%Y-%m-%dT%H:%M:%SZ")} for entry in state.rolling
        ]
    return status


def events_of(profile: ClusterEngineRuntimeProfile, status: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return what has changed from the profile's status to the next one."""
    before = {"conditions": profile.status.to_api().get("conditions") or []}
    found: list[Event] = []
    previously_accepted, accepted = find(before, ACCEPTED), find(status, ACCEPTED)
    if accepted["status"] == "False" and accepted["message"] != previously_accepted.get("message"):
        found.append(Event("Warning", "Rejected", accepted["message"]))
    rolled_out = find(status, ROLLED_OUT)
    previous_reason, reason, message = (
        find(before, ROLLED_OUT).get("reason"),
        rolled_out["reason"],
        rolled_out["message"],
    )
    if reason == previous_reason:
        return tuple(found)
    if reason == "Stopped":
        found.append(Event("Warning", "Stopped", message))
    elif reason == "Rolling":
        found.append(Event("Normal", "Resumed" if previous_reason == "Stopped" else "Rolling", message))
    elif previous_reason in ("Rolling", "Stopped"):
        found.append(Event("Normal", "Rolled", message))
    return tuple(found)


def _accepted(dry_run: DryRunResult) -> tuple[str, str, str]:
    if dry_run.problems:
        return "False", "Rejected", f"A pod with this profile would be rejected: {dry_run}"[:2000]
    if dry_run.not_possible:
        return "Unknown", "DryRunNotPossible", f"The dry run was not possible: {dry_run.not_possible}"[:2000]
    return "True", "DryRunPassed", "The API server accepts a pod with this profile."


def _rolled_out(profile: ClusterEngineRuntimeProfile, state: State) -> tuple[str, str, str]:
    behind = f"{state.behind} of {state.pods} pods run an older revision"
    if not state.behind and not state.rolling:
        if not state.pods:
            return "True", "UpToDate", f"No pod has this profile. The profile has revision {state.revision}."
        pods = "The injected pod runs" if state.pods == 1 else f"All {state.pods} injected pods run"
        return "True", "UpToDate", f"{pods} revision {state.revision}."
    if profile.spec.update_strategy == "NoUpdate":
        return "False", "NoUpdate", f"{behind}. updateStrategy NoUpdate changes no running pod."
    if state.dry_run.problems:
        return "False", "Rejected", f"{behind}. The rollout waits until the profile is accepted."
    if state.failed:
        named = "; ".join(f"{ref} did not become ready: {message}" for ref, message in state.failed[:MOST_NAMED])
        return "False", "Stopped", f"{named}. {behind}; the rollout is paused."[:2000]
    if state.rolling:
        names = ", ".join(f"{entry.kind} {entry.namespace}/{entry.name}" for entry in state.rolling[:MOST_NAMED])
        return "False", "Rolling", f"{behind}. Rolling {names}; {state.waiting} more to roll."
    return "False", "PartiallyRolledOut", f"{behind} and are not rolled: {_named(state)}."


def _named(state: State) -> str:
    """Name what is left by its pods: workloads by their names, the rest by their kind."""
    pods: Counter[tuple[str, str]] = Counter()
    for skipped in state.left:
        pods[skipped.what, skipped.why] += skipped.pods
    parts = [f"{count} {what}" + (f" ({why})" if why else "") for (what, why), count in sorted(pods.items())]
    more = len(parts) - MOST_NAMED
    return ", ".join(parts[:MOST_NAMED]) + (f", and {more} more" if more > 0 else "")

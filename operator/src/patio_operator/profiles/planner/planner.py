"""Which workload is rolled now, for a profile that has changed: `plan`.

Called by the feature's `reconciler`. One workload at a time, or as many as the profile's annotation says; the next one
when the last is up. One that does not become ready stops the roll until it does, or until the profile changes again:
then it is the first to get the change. Workloads that are not ready to begin with come last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from patio_api import labels
from patio_api.events import Event
from patio_api.profile import ClusterEngineRuntimeProfile, Rolling
from patio_operator.pods.profile_use import WorkloadRef
from patio_operator.profiles.planner.consumers import ProfilePod
from patio_operator.profiles.planner.snapshot import Snapshot
from patio_operator.profiles.planner.status import Skipped, State, events_of, status_of
from patio_operator.profiles.planner.workloads import Workload

PROGRESS_DEADLINE = timedelta(minutes=10)
"""Without progress for so long a StatefulSet or DaemonSet has failed; a Deployment has its own deadline."""
LOOK_AGAIN = timedelta(seconds=5)
"""While something is rolled: its pods' events come before its status."""
LOOK_AT_HELD = timedelta(seconds=30)
"""Whether what could not be rolled or tried now can be."""

_LAST = 2
"""The turn of workloads that are not up."""
MOST_AT_ONCE = 1_000


@dataclass(frozen=True)
class Roll:
    """Change the pod template of a workload, which then replaces its pods."""

    workload: Workload
    rolled: Mapping[str, str]
    """What its template says afterwards: the revision of each profile that it was rolled for."""
    reason: str


@dataclass(frozen=True)
class Plan:
    """What to do now."""

    rolls: tuple[Roll, ...]
    status: dict[str, Any]
    events: tuple[Event, ...]
    requeue_at: datetime | None


def workloads_to_read(
    profile: ClusterEngineRuntimeProfile, revision: str, users: Sequence[ProfilePod]
) -> list[WorkloadRef]:
    """Return the workloads that `plan` must be shown: those with pods behind, and those that are being rolled."""
    if profile.spec.update_strategy == "NoUpdate":
        return []
    behind = {user.workload for user in users if user.workload is not None and user.revision != revision}
    return sorted(behind | {_ref(entry) for entry in profile.status.rolling})


def plan(snapshot: Snapshot) -> Plan:
    """Return what to roll, the profile's status, and its events."""
    profile, revision, dry_run = snapshot.profile, snapshot.revision, snapshot.dry_run
    users, now, unread = snapshot.pods, snapshot.now, snapshot.unread
    behind = [user for user in users if user.revision != revision]
    state = State(revision, len(users), len(behind), dry_run)
    if dry_run.problems or profile.spec.update_strategy == "NoUpdate":
        return _done(profile, state, (), now)
    before = {_ref(entry): entry for entry in profile.status.rolling}
    name = profile.metadata.name
    rolling: list[tuple[Workload, Rolling]] = []
    candidates: list[Workload] = []
    left = [Skipped(_made(user), "", 1) for user in behind if user.workload is None]
    pods_behind = Counter(user.workload for user in behind)
    for ref, workload in sorted(snapshot.workloads.items()):
        pods = pods_behind[ref]
        if workload.held:
            left += [Skipped(f"of {ref}", workload.held, pods)] if pods else []
        elif workload.rolled.get(name) != revision:
            candidates += [workload] if pods else []
        elif not workload.is_up:
            rolling.append((workload, _followed(workload, before.get(ref), now)))
        elif pods:
            left.append(Skipped(f"of {ref}", "rolled out, but some pods still run an older revision: restart it", pods))
    failures = [(workload.ref, _failure(workload, entry, now)) for workload, entry in rolling]
    failed = [(ref, message) for ref, message in failures if message]
    free = 0 if failed else max(at_once(profile) - len(rolling), 0)
    turns = sorted((_turn(candidate, before), candidate.ref, candidate) for candidate in candidates)
    chosen = [workload for turn, _, workload in turns if turn < _LAST or not unread][:free]
    rolls = tuple(
        Roll(workload, {**workload.rolled, name: revision}, f"profile {name} changed, and pods run an older revision")
        for workload in chosen
    )
    entries = [entry for _, entry in rolling] + [_followed(workload, None, now) for workload in chosen]
    waiting = len(candidates) - len(chosen) + len(unread)
    state = State(revision, len(users), len(behind), dry_run, tuple(entries), waiting, tuple(failed), tuple(left))
    return _done(profile, state, rolls, now)


def at_once(profile: ClusterEngineRuntimeProfile) -> int:
    """Return how many workloads may be rolled at once."""
    annotation = profile.metadata.annotations.get(labels.ROLL_AT_ONCE, "1")
    return min(max(int(annotation), 1), MOST_AT_ONCE) if len(annotation) < 10 and annotation.isdecimal() else 1


def _done(profile: ClusterEngineRuntimeProfile, state: State, rolls: tuple[Roll, ...], now: datetime) -> Plan:
    status = status_of(profile, state, now)
    requeue_at = None
    if state.rolling:
        requeue_at = now + LOOK_AGAIN
    elif state.left or state.dry_run.not_possible:
        requeue_at = now + LOOK_AT_HELD
    return Plan(rolls, status, events_of(profile, status), requeue_at)


def _made(user: ProfilePod) -> str:
    return "not managed by a controller" if user.made_by == "Pod" else f"managed by a {user.made_by}"


def _turn(workload: Workload, before: Collection[WorkloadRef]) -> int:
    """Return which workloads come first: those that an older revision left down, then those that are up."""
    if workload.ref in before:
        return 0
    return 1 if workload.is_up else _LAST


def _followed(workload: Workload, before: Rolling | None, now: datetime) -> Rolling:
    """Return the entry of a workload that is being rolled; `since` is when its numbers last changed."""
    ref = workload.ref
    if before is not None and before.progress == workload.progress:
        return before
    return Rolling(kind=ref.kind, namespace=ref.namespace, name=ref.name, since=now, progress=workload.progress)


def _failure(workload: Workload, entry: Rolling, now: datetime) -> str:
    if workload.failure:
        return workload.failure
    if not workload.has_deadline and now - entry.since > PROGRESS_DEADLINE:
        message = f"no further pod has become ready since {entry.since:%H:%M} UTC"
        if workload.ref.kind == "StatefulSet":
            message += (
                "; a StatefulSet does not replace a pod that was never ready: remove the cause, then delete that pod"
            )
        return message
    return ""


def _ref(entry: Rolling) -> WorkloadRef:
    return WorkloadRef(entry.kind, entry.namespace, entry.name)

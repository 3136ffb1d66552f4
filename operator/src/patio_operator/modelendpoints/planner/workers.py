"""The workers of a group, put together from its pods: which answer, which start, which fail to start.

Worker number n of a group is the n-th instance of its server role, or the n-th share of its prefill and decode
instances (with the router before them). It answers when the pods that stand for those instances are ready. A pod's
readiness is its sidecar's, which is ready only after the engine answered its own readiness route and listed its models:
so a pod that asks for a profile and came up without a sidecar counts as failed, not as ready (decision 0044).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from patio_operator.modelendpoints.planner.naming import ROUTER
from patio_operator.modelendpoints.planner.snapshot import ObservedGroup, ObservedPod, PodState

_ORDER = (PodState.FAILING, PodState.SCHEDULING, PodState.PULLING, PodState.LOADING, PodState.READY)
"""From far away from answering to near."""
NOT_YET = "its pods do not exist yet"


@dataclass(frozen=True)
class Worker:
    """A worker of a group."""

    index: int
    state: PodState
    """The least of its pods'."""
    pod: ObservedPod | None
    """The one that is in that state; None: it does not exist yet."""
    message: str = ""
    group: str = ""
    """Name of its group."""

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.state is PodState.READY

    @property
    def failing(self) -> bool:
        """Whether it fails to start."""
        return self.state is PodState.FAILING

    @property
    def name(self) -> str:
        """Return what it waits for: its pod, or its group where there is no pod."""
        return f"group {self.group}" if self.pod is None else self.pod.name


@dataclass(frozen=True)
class GroupState:
    """A group and its workers."""

    group: ObservedGroup
    workers: tuple[Worker, ...]
    """One for each that the group is to have, by number."""
    pods: int
    """That there are, those that end included."""

    @property
    def ready(self) -> int:
        """Return how many answer."""
        return sum(worker.ready for worker in self.workers)

    @property
    def failing(self) -> tuple[Worker, ...]:
        """Return those that fail to start."""
        return tuple(worker for worker in self.workers if worker.failing)


def observe(group: ObservedGroup, pods: Iterable[ObservedPod], now: datetime, grace: timedelta) -> GroupState:
    """Return what a group's workers are at.

    Args:
        group: a group of the endpoint.
        pods: of the endpoint, of all groups.
        now: by the operator's clock; UTC.
        grace: that a pod may take until it answers.

    """
    own = [pod for pod in pods if pod.group == group.name]
    asking = {role.get("name") for role in group.roles if role.get("engineRuntimes")}
    leaders = {
        (pod.role, pod.index): _judged(pod, now, grace, asks_for_sidecar=pod.role in asking)
        for pod in own
        if pod.leads and not pod.leaving
    }
    has_router = any(role.get("name") == ROUTER for role in group.roles)
    workers = []
    for number in range(group.workers):
        members = [
            (role, index) for role, each in group.shape.items() for index in range(number * each, (number + 1) * each)
        ]
        members += [(ROUTER, 0)] if has_router else []
        workers.append(_worker(group, number, [leaders.get(member) for member in members]))
    return GroupState(group, tuple(workers), len(own))


def _judged(pod: ObservedPod, now: datetime, grace: timedelta, *, asks_for_sidecar: bool) -> ObservedPod:
    if pod.state is PodState.READY:
        if asks_for_sidecar and not pod.injected:
            message = "it has no sidecar: it was admitted while the operator's webhook did not answer; delete the pod"
            return replace(pod, state=PodState.FAILING, message=message)
        return pod
    if pod.state is not PodState.FAILING and now - pod.since > grace:
        reason = f" ({pod.message})" if pod.message else ""
        message = f"it has not answered for {_minutes(now - pod.since)}, longer than workers.loadingGrace{reason}"
        return replace(pod, state=PodState.FAILING, message=message)
    return pod


def _worker(group: ObservedGroup, number: int, members: Sequence[ObservedPod | None]) -> Worker:
    present = [pod for pod in members if pod is not None]
    failing = next((pod for pod in present if pod.state is PodState.FAILING), None)
    if failing is not None:
        return Worker(number, PodState.FAILING, failing, failing.message, group.name)
    if (len(present) < len(members) or not present) and group.problem:
        return Worker(number, PodState.FAILING, None, group.problem, group.name)
    if len(present) < len(members) or not present:
        detail = f" ({group.message})" if group.message else ""
        return Worker(number, PodState.SCHEDULING, None, f"{NOT_YET}{detail}", group.name)
    least = min(present, key=lambda pod: _ORDER.index(pod.state))
    return Worker(number, least.state, least, least.message, group.name)


def furthest(workers: Iterable[Worker]) -> Worker | None:
    """Return the worker that will answer first, of those that do not yet; None: all do."""
    starting = [worker for worker in workers if not worker.ready]
    return max(starting, key=lambda worker: (_ORDER.index(worker.state), -worker.index), default=None)


def _minutes(length: timedelta) -> str:
    minutes = int(length.total_seconds() // 60)
    return f"{minutes} min" if minutes else f"{int(length.total_seconds())} s"

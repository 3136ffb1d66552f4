"""What is seen of a ModelEndpoint at one moment: demand as gateways and the queue report it, and workers. Pure values.

The caller fills it from its caches before each `planner.plan`. All times are of the operator's clock: a gateway reports
how many seconds ago something was, never when, because clocks of two pods are not compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class WorkerState(StrEnum):
    """What a worker does."""

    LOADING = "Loading"
    """It was created and has not answered a request yet: scheduling, pulling, downloading, loading."""
    READY = "Ready"
    """It gets requests."""
    DRAINING = "Draining"
    """It is ready and gets no new requests, because it is to go."""
    FAILED = "Failed"
    """It does not start: its container or its pod failed, or was replaced, before it answered any request."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A pod, or a group of pods that serves as one."""

    name: str
    state: WorkerState
    since: datetime
    """When it was created."""
    in_flight: int | None = None
    """Requests and tasks that it works on, over all gateways and the queue. None: unknown, which counts as busy."""
    adapters: frozenset[str] = frozenset()
    """Names of the adapters that it has loaded."""

    @property
    def drained(self) -> bool:
        """Whether it gets no new requests and has finished those it had."""
        return self.state is WorkerState.DRAINING and self.in_flight == 0

    @property
    def idle(self) -> bool:
        """Whether it is certain that it works on nothing."""
        return self.state is WorkerState.FAILED or self.in_flight == 0

    def loads(self, now: datetime, grace: timedelta) -> bool:
        """Tell whether it loads, and has not taken longer than the grace."""
        return self.state is WorkerState.LOADING and now - self.since < grace

    def stuck(self, now: datetime, grace: timedelta) -> bool:
        """Tell whether it failed, or has been loading for longer than the grace."""
        return self.state is WorkerState.FAILED or (self.state is WorkerState.LOADING and not self.loads(now, grace))


@dataclass(frozen=True, slots=True)
class Gateway:
    """A replica of the gateway that gets requests, and so must report."""

    name: str
    since: datetime
    """When the operator first saw it ready."""


@dataclass(frozen=True, slots=True)
class DemandReport:
    """The last report of one gateway replica about the model."""

    gateway: str
    at: datetime
    """When the operator received it."""
    in_flight: int = 0
    """Requests that workers have and have not finished, streams included."""
    held: int = 0
    """Requests that wait for a worker."""
    last_request: datetime | None = None
    """When its last request began or ended. None: none since the gateway started."""


@dataclass(frozen=True, slots=True)
class QueueReport:
    """The last look at the queue of tasks."""

    at: datetime
    waiting: int = 0
    running: int = 0
    """Tasks that workers took and have not finished."""


@dataclass(frozen=True, slots=True)
class Observations:
    """Everything that a decision is made from, at one moment."""

    replicas: int
    """What the scale subresource asks for now."""
    workers: tuple[Worker, ...] | None = ()
    """None: they could not be listed."""
    gateways: tuple[Gateway, ...] | None = ()
    """Replicas that must report. None: they could not be listed."""
    reports: tuple[DemandReport, ...] = ()
    """At most one of each gateway: the last, however old."""
    queue: QueueReport | None = None
    """None: there is no queue, or it has never answered."""

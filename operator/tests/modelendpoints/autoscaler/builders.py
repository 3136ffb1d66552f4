"""Observations and workers that are short to write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from patio_operator.modelendpoints.autoscaler.observation import (
    DemandReport,
    Gateway,
    Observations,
    QueueReport,
    Worker,
    WorkerState,
)
from patio_operator.modelendpoints.autoscaler.spec import ScalingSpec

START = datetime(2026, 11, 27, 9, tzinfo=UTC)
SPEC = ScalingSpec(min_workers=0, max_workers=8, concurrency=32)
LONG_AGO = START - timedelta(days=1)


def at(seconds: float) -> datetime:
    """Return a time after START."""
    return START + timedelta(seconds=seconds)


def ready(count: int, in_flight: int | None = 0, first: int = 0) -> tuple[Worker, ...]:
    """Return ready workers of the same load."""
    return tuple(Worker(f"w-{first + index}", WorkerState.READY, LONG_AGO, in_flight) for index in range(count))


def worker(
    name: str, state: WorkerState, in_flight: int | None = 0, since: datetime = LONG_AGO, *adapters: str
) -> Worker:
    """Return a worker."""
    return Worker(name, state, since, in_flight, frozenset(adapters))


def seen(
    now: datetime,
    replicas: int,
    workers: tuple[Worker, ...] | None = None,
    in_flight: int = 0,
    held: int = 0,
    queue: QueueReport | None = None,
    last_request: datetime | None = None,
) -> Observations:
    """Return what is seen with one gateway, whose report is fresh. Without workers all are ready and idle."""
    return Observations(
        replicas=replicas,
        workers=ready(replicas) if workers is None else workers,
        gateways=(Gateway("gw-0", LONG_AGO),),
        reports=(DemandReport("gw-0", now, in_flight, held, last_request),),
        queue=queue,
    )

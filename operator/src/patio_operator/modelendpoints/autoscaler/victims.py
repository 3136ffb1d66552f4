"""Which workers go when demand needs fewer: those with the least to lose. Pure.

A worker goes in two steps. `choose_drains` says which ready ones get no new requests. When they have finished what they
had, `planner` lowers the scale, and `choose_victims` says which workers to delete for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush

from patio_operator.modelendpoints.autoscaler.observation import Worker, WorkerState

BUSY = 10**9
"""Stands for an unknown number of requests: more than any that is known."""


def choose_victims(workers: Sequence[Worker], count: int, now: datetime, grace: timedelta) -> tuple[Worker, ...]:
    """Return the workers to delete, those with the least to lose first.

    First those that do not start, then drained ones, then idle ones, then busy ones, the draining first. Among equals
    those with the fewest requests, the fewest adapters that no other worker has, and the youngest. A worker that loads
    within the grace is never among them, so there may be fewer than `count`: the others follow when they are ready.

    Args:
        workers: all of the ModelEndpoint.
        count: how many are too many.
        now: the operator's time.
        grace: how long a worker may load.

    """
    removable = {worker.name: worker for worker in workers if not worker.loads(now, grace)}
    loaded = Counter(name for worker in removable.values() for name in worker.adapters)
    heap = [_loss(worker, loaded) for worker in removable.values()]
    heapify(heap)
    chosen: list[Worker] = []
    while heap and len(chosen) < count:
        loss = heappop(heap)
        worker = removable[loss[-1]]
        # Each victim before it can only have made it worth more: it may be the last with an adapter by now.
        current = _loss(worker, loaded)
        if current != loss:
            heappush(heap, current)
            continue
        loaded.subtract(worker.adapters)
        chosen.append(worker)
    return tuple(chosen)


def choose_drains(workers: Sequence[Worker], count: int, now: datetime, grace: timedelta) -> tuple[Worker, ...]:
    """Return the workers that should get no new requests: all others that drain should serve again.

    A worker that drains goes on draining, because it has served nothing since; among these, and among the others,
    those with the least to lose. Workers that load or do not start get no requests, and are left out.

    Args:
        workers: all of the ModelEndpoint.
        count: `Decision.drain`.
        now: the operator's time.
        grace: how long a worker may load.

    """
    draining = [worker for worker in workers if worker.state is WorkerState.DRAINING]
    ready = [worker for worker in workers if worker.state is WorkerState.READY]
    kept = choose_victims(draining, count, now, grace)
    return kept + choose_victims(ready, count - len(kept), now, grace)


def _loss(worker: Worker, loaded: Counter[str]) -> tuple[int, int, int, float, str]:
    """Order workers by what is lost with them. Names make the order the same in each run."""
    draining = worker.state is WorkerState.DRAINING
    if worker.state in (WorkerState.FAILED, WorkerState.LOADING):
        rank = 0
    elif worker.idle:
        rank = 1 if draining else 2
    else:
        rank = 3 if draining else 4
    alone = sum(1 for name in worker.adapters if loaded[name] == 1)
    in_flight = BUSY if worker.in_flight is None else worker.in_flight
    return rank, in_flight, alone, -worker.since.timestamp(), worker.name

"""How many workers a ModelEndpoint should have now: `plan`. Pure.

The rules, in the order in which they apply:

1. Demand asks for one worker for each `concurrency` requests and tasks, at once.
2. Fewer than now only down to what the greatest demand of the last window asks for, and to one worker until no request
   has come for `scale_to_zero_after`. A worker that loads counts as activity.
3. Where demand, workers or a part of the window are unknown, not fewer than now.
4. More than now only while workers start: FIRST_WORKERS until the first is ready, none while most do not start.
5. Between `min_workers` and `max_workers`. A maximum that was lowered is an order, which nothing else holds back.
6. A worker that is not needed drains first. Only those go that have drained, do not start, or do not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from patio_operator.modelendpoints.autoscaler.decision import Decision, Reason
from patio_operator.modelendpoints.autoscaler.demand import Demand, demand_at
from patio_operator.modelendpoints.autoscaler.memory import ScalingMemory, advanced
from patio_operator.modelendpoints.autoscaler.observation import Observations, Worker, WorkerState
from patio_operator.modelendpoints.autoscaler.spec import ScalingSpec
from patio_operator.modelendpoints.autoscaler.wording import counted, demand_in_words, in_words, names_in_words

LOOK_EVERY = timedelta(seconds=10)
"""How often an endpoint with workers is looked at, when nothing is reported."""
FIRST_WORKERS = 4
"""How many workers are started at once before one is ready: the start may be one that never ends."""
_FALLS = (Reason.DEMAND_FELL, Reason.SCALED_TO_ZERO, Reason.MINIMUM_WORKERS)


@dataclass(frozen=True, slots=True)
class _Workers:
    """The workers, counted."""

    ready: int
    """Those that drain included."""
    loading: int
    stuck: int
    drained: int
    listed: int


def plan(now: datetime, observations: Observations, spec: ScalingSpec, memory: ScalingMemory | None) -> Decision:
    """Decide the number of workers. The same arguments give the same decision.

    Args:
        now: the operator's time.
        observations: what is seen now.
        spec: what the user says.
        memory: `Decision.memory` of the step before, or what `memory.from_status` read; None makes the scale hold for
            a window.

    """
    demand = demand_at(now, observations, spec.queued)
    workers = None if observations.workers is None else _counted(observations.workers, now, spec.loading_grace)
    active = demand.total > 0 or workers is None or workers.loading > 0
    after = advanced(
        memory,
        now,
        demand.total,
        spec.window,
        complete=demand.complete,
        activity=now if active else demand.last_request,
    )
    current = observations.replicas
    target, reason, message = _target(now, current, demand, workers, spec, after)
    replicas, drain = _removable(current, target, workers, spec)
    if workers is not None and replicas > target and reason in _FALLS:
        listed = counted(workers.listed, "worker")
        if drain:
            reason = Reason.WORKERS_DRAINING
            message += f"; {drain} of {listed} {'drains' if drain == 1 else 'drain'} first"
        else:
            reason = Reason.WORKERS_LOADING
            message += f"; {workers.loading} of {listed} may load for {in_words(spec.loading_grace)}"
    asleep = replicas == current == 0 and not demand.total
    return Decision(replicas, reason, message, after, drain, None if asleep else _next_look(now, spec, after))


def _counted(workers: tuple[Worker, ...], now: datetime, grace: timedelta) -> _Workers:
    return _Workers(
        ready=sum(worker.state in (WorkerState.READY, WorkerState.DRAINING) for worker in workers),
        loading=sum(worker.loads(now, grace) for worker in workers),
        stuck=sum(worker.stuck(now, grace) for worker in workers),
        drained=sum(worker.drained for worker in workers),
        listed=len(workers),
    )


def _target(
    now: datetime,
    current: int,
    demand: Demand,
    workers: _Workers | None,
    spec: ScalingSpec,
    memory: ScalingMemory,
) -> tuple[int, Reason, str]:
    """Return how many workers there should be in the end, and why."""
    wanted = -(-demand.total // spec.concurrency)
    summary = demand_in_words(demand)
    if wanted:
        summary += f" for {counted(wanted, 'worker')} of {spec.concurrency} each"
    if wanted > current:
        target, reason, message = _rise(wanted, current, workers, summary)
    else:
        target, reason, message = _fall(now, wanted, current, demand, workers, spec, memory, summary)
    if target > spec.max_workers:
        return spec.max_workers, Reason.MAXIMUM_WORKERS, f"{message}; workers.max is {spec.max_workers}"
    if target < spec.min_workers:
        return spec.min_workers, Reason.MINIMUM_WORKERS, f"{message}; workers.min is {spec.min_workers}"
    return target, reason, message


def _rise(wanted: int, current: int, workers: _Workers | None, summary: str) -> tuple[int, Reason, str]:
    """More than now, as far as the start of workers is known to work."""
    if workers is None or not workers.ready:
        stuck = workers is not None and workers.stuck > 0
        most = max(current, 1 if stuck else FIRST_WORKERS)
        if wanted > most:
            if stuck and workers is not None:
                return most, Reason.WORKERS_NOT_STARTING, f"{summary}; {_not_starting(workers)}"
            return (
                most,
                Reason.FIRST_WORKER_PENDING,
                f"{summary}; {counted(most, 'worker')} at most until the first is ready",
            )
    elif workers.stuck > workers.ready:
        return current, Reason.WORKERS_NOT_STARTING, f"{summary}; {_not_starting(workers)}"
    return wanted, Reason.DEMAND_ROSE if current else Reason.WOKEN_BY_DEMAND, summary


def _not_starting(workers: _Workers) -> str:
    return (
        f"no more are started, because {workers.stuck} of {counted(workers.listed, 'worker')} failed or did not load "
        "in time. Read the events and logs of their pods"
    )


def _fall(
    now: datetime,
    wanted: int,
    current: int,
    demand: Demand,
    workers: _Workers | None,
    spec: ScalingSpec,
    memory: ScalingMemory,
    summary: str,
) -> tuple[int, Reason, str]:
    """Return fewer than now, as far as nothing needs them, or as many."""
    if wanted == current:
        return current, Reason.DEMAND_MET if current else Reason.SCALED_TO_ZERO, summary
    if not demand.complete:
        return current, Reason.DEMAND_UNKNOWN, f"{_unknown(demand)}: {_kept(current)}. As far as is known, {summary}"
    if workers is None:
        return current, Reason.WORKERS_UNKNOWN, f"the workers could not be listed: {_kept(current)}"
    if not memory.covers(spec.window):
        since = in_words(memory.at - memory.complete_since)
        return (
            current,
            Reason.HISTORY_UNKNOWN,
            f"{summary}; demand is known for the last {since} only, of {in_words(spec.window)}: {_kept(current)}",
        )
    needed = -(-memory.peak // spec.concurrency)
    peak = f"at most {memory.peak} at once in the last {in_words(spec.window)} ask for {counted(needed, 'worker')}"
    if needed >= current:
        return current, Reason.RECENT_PEAK, f"{summary}; {peak} of {spec.concurrency} each"
    if needed:
        return needed, Reason.DEMAND_FELL, f"{peak} of {spec.concurrency} each"
    quiet = now - memory.last_activity
    if quiet >= spec.scale_to_zero_after or spec.min_workers:
        return 0, Reason.SCALED_TO_ZERO, f"no request and no loading worker for {in_words(quiet)}"
    stays = (
        f"no request and no loading worker for {in_words(quiet)}: "
        f"the last worker stays for another {in_words(spec.scale_to_zero_after - quiet)}"
    )
    return 1, Reason.RECENT_REQUEST if current == 1 else Reason.DEMAND_FELL, stays


def _unknown(demand: Demand) -> str:
    """Say what is unknown of demand."""
    if demand.unlisted:
        return "no gateway is known to report"
    if demand.missing:
        return f"no report from {names_in_words(demand.missing)}"
    return "the queue of tasks did not answer"


def _kept(current: int) -> str:
    return f"{counted(current, 'worker')} {'stays' if current == 1 else 'stay'}"


def _removable(current: int, target: int, workers: _Workers | None, spec: ScalingSpec) -> tuple[int, int]:
    """Return how many workers the scale should ask for on the way to its target, and how many should drain."""
    if workers is None:
        return min(max(current, target), spec.max_workers), 0
    drain = max(0, workers.ready - target)
    # Counted by what is listed: of workers that were removed and still end, none must be counted a second time.
    needed = workers.listed - workers.stuck - min(workers.drained, drain)
    return min(max(target, min(current, needed)), spec.max_workers), drain


def _next_look(now: datetime, spec: ScalingSpec, memory: ScalingMemory) -> datetime:
    """Return when the first rule would decide something else, but soon enough to see the demand in between."""
    changes = (
        now + LOOK_EVERY,
        memory.complete_since + spec.window,
        memory.last_activity + spec.scale_to_zero_after,
        *(datetime.fromtimestamp(peak.end, now.tzinfo) + spec.window for peak in memory.peaks[:1]),
    )
    return min(moment for moment in changes if moment > now)

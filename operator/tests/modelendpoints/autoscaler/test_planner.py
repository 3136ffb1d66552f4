"""How many workers there should be: the rules, one by one."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from patio_operator.modelendpoints.autoscaler.decision import Decision, Reason
from patio_operator.modelendpoints.autoscaler.memory import Peak, ScalingMemory
from patio_operator.modelendpoints.autoscaler.observation import (
    DemandReport,
    Gateway,
    Observations,
    QueueReport,
    WorkerState,
)
from patio_operator.modelendpoints.autoscaler.planner import FIRST_WORKERS, LOOK_EVERY, plan
from patio_operator.modelendpoints.autoscaler.spec import ScalingSpec

from .builders import LONG_AGO, SPEC, START, at, ready, seen, worker

NOW = at(3600)


def memory(peak: int = 0, quiet: float = 0, now: datetime = NOW) -> ScalingMemory:
    """Return a memory that covers its window, with a peak a minute ago."""
    peaks = (Peak(int(now.timestamp()) - 60, peak),) if peak else ()
    return ScalingMemory(now - timedelta(seconds=5), LONG_AGO, now - timedelta(seconds=quiet), peaks)


def decide(observations: Observations, before: ScalingMemory | None = None, spec: ScalingSpec = SPEC) -> Decision:
    return plan(NOW, observations, spec, memory() if before is None else before)


def test_demand_rises_to_its_workers_at_once() -> None:
    decision = decide(seen(NOW, 1, in_flight=12, held=30))
    assert (decision.replicas, decision.reason) == (2, Reason.DEMAND_ROSE)
    assert decision.message == "12 in flight and 30 held ask for 2 workers of 32 each"


def test_queued_tasks_count_as_demand() -> None:
    decision = decide(seen(NOW, 1, queue=QueueReport(NOW, waiting=60, running=5)))
    assert (decision.replicas, decision.message) == (3, "65 queued ask for 3 workers of 32 each")


def test_single_held_request_wakes_one_worker() -> None:
    decision = decide(seen(NOW, 0, held=1))
    assert (decision.replicas, decision.reason) == (1, Reason.WOKEN_BY_DEMAND)
    assert decision.message == "1 held asks for 1 worker of 32 each"


def test_wake_is_bounded_until_the_first_worker_is_ready() -> None:
    decision = decide(seen(NOW, 0, held=1000))
    assert (decision.replicas, decision.reason) == (FIRST_WORKERS, Reason.FIRST_WORKER_PENDING)
    loading = tuple(worker(f"w-{index}", WorkerState.LOADING, None, at(3590)) for index in range(4))
    assert decide(seen(NOW, 4, loading, held=1000)).replicas == 4
    assert decide(seen(NOW, 4, (*loading[1:], *ready(1)), held=1000)).replicas == 8


def test_demand_beyond_the_maximum_gets_the_maximum() -> None:
    decision = decide(seen(NOW, 8, in_flight=400))
    assert (decision.replicas, decision.reason) == (8, Reason.MAXIMUM_WORKERS)
    assert decision.message == "400 in flight ask for 13 workers of 32 each; workers.max is 8"


def test_minimum_is_kept_without_any_request() -> None:
    decision = decide(seen(NOW, 0), memory(quiet=3600), replace(SPEC, min_workers=2))
    assert (decision.replicas, decision.reason) == (2, Reason.MINIMUM_WORKERS)
    decision = decide(seen(NOW, 3), memory(quiet=5), replace(SPEC, min_workers=2))
    assert (decision.replicas, decision.drain, decision.reason) == (3, 1, Reason.WORKERS_DRAINING)
    assert decision.message.endswith("for 5 s; workers.min is 2; 1 of 3 workers drains first")


def test_peak_of_the_window_holds_the_scale() -> None:
    decision = decide(seen(NOW, 3, in_flight=10), memory(peak=80))
    assert (decision.replicas, decision.drain, decision.reason) == (3, 0, Reason.RECENT_PEAK)
    assert "at most 80 at once in the last 5 min ask for 3 workers" in decision.message


def test_lower_demand_drains_before_it_removes() -> None:
    busy = ready(3, in_flight=4)
    decision = decide(seen(NOW, 3, busy, in_flight=12), memory(peak=40))
    assert (decision.replicas, decision.drain, decision.reason) == (3, 1, Reason.WORKERS_DRAINING)
    drained = (*busy[:2], worker("w-2", WorkerState.DRAINING))
    decision = decide(seen(NOW, 3, drained, in_flight=8), memory(peak=40))
    assert (decision.replicas, decision.drain, decision.reason) == (2, 1, Reason.DEMAND_FELL)


@pytest.mark.parametrize("in_flight", [1, None])
def test_draining_worker_stays_while_it_may_be_busy(in_flight: int | None) -> None:
    workers = (*ready(1), worker("w-1", WorkerState.DRAINING, in_flight))
    assert decide(seen(NOW, 2, workers, in_flight=1), memory(peak=1)).replicas == 2


def test_loading_worker_stays_until_its_grace_is_over() -> None:
    loading = worker("w-1", WorkerState.LOADING, None, NOW - SPEC.loading_grace + timedelta(seconds=1))
    decision = decide(seen(NOW, 2, (*ready(1), loading), in_flight=1), memory(peak=1))
    assert (decision.replicas, decision.reason) == (2, Reason.WORKERS_LOADING)
    overdue = replace(loading, since=NOW - SPEC.loading_grace)
    assert decide(seen(NOW, 2, (*ready(1), overdue), in_flight=1), memory(peak=1)).replicas == 1


def test_loading_worker_is_not_what_serves_instead() -> None:
    """Of a ready and a loading worker one is enough: the ready one serves on."""
    loading = worker("w-1", WorkerState.LOADING, None, NOW)
    assert decide(seen(NOW, 2, (*ready(1), loading), in_flight=1), memory(peak=1)).drain == 0


def test_worker_that_still_ends_is_not_removed_twice() -> None:
    """The scale is 2 already: of four workers, two have drained and end."""
    ending = tuple(worker(f"w-{index}", WorkerState.DRAINING) for index in (2, 3))
    assert decide(seen(NOW, 2, (*ready(2, in_flight=1), *ending), in_flight=2), memory(peak=2)).replicas == 2


def test_drained_worker_serves_again_when_demand_returns() -> None:
    workers = (*ready(1, in_flight=32), worker("w-1", WorkerState.DRAINING))
    decision = decide(seen(NOW, 2, workers, in_flight=32, held=1))
    assert (decision.replicas, decision.drain) == (2, 0)


def test_last_worker_stays_until_the_quiet_has_lasted() -> None:
    decision = decide(seen(NOW, 1), memory(quiet=599))
    assert (decision.replicas, decision.drain, decision.reason) == (1, 0, Reason.RECENT_REQUEST)
    decision = decide(seen(NOW, 1), memory(quiet=600))
    assert (decision.drain, decision.reason) == (1, Reason.WORKERS_DRAINING)
    drained = (worker("w-0", WorkerState.DRAINING),)
    decision = decide(seen(NOW, 1, drained), memory(quiet=600))
    assert (decision.replicas, decision.reason) == (0, Reason.SCALED_TO_ZERO)
    assert decision.message == "no request and no loading worker for 10 min"


def test_request_between_two_steps_counts_as_activity() -> None:
    decision = decide(seen(NOW, 1, last_request=NOW - timedelta(seconds=3)), memory(quiet=600))
    assert decision.reason == Reason.RECENT_REQUEST


def test_loading_counts_as_activity() -> None:
    """A start that takes longer than the quiet: superlinked/sie 293."""
    loading = (worker("w-0", WorkerState.LOADING, None, NOW - timedelta(minutes=20)),)
    after = decide(seen(NOW, 1, loading), memory(quiet=1200)).memory
    assert after.last_activity == NOW


def test_missing_report_holds_and_names_the_gateway() -> None:
    observations = Observations(
        2, ready(2), (Gateway("gw-0", LONG_AGO), Gateway("gw-1", LONG_AGO)), (DemandReport("gw-0", NOW),)
    )
    decision = decide(observations, memory(quiet=3600))
    assert (decision.replicas, decision.drain, decision.reason) == (2, 0, Reason.DEMAND_UNKNOWN)
    assert decision.message == "no report from gw-1: 2 workers stay. As far as is known, no request"


def test_demand_of_a_silent_gateway_is_not_lost() -> None:
    gateways = (Gateway("gw-0", LONG_AGO), Gateway("gw-1", LONG_AGO))
    reports = (DemandReport("gw-0", NOW, 96), DemandReport("gw-1", NOW - timedelta(minutes=1), 64))
    assert decide(Observations(4, ready(4), gateways, reports)).replicas == 5


@pytest.mark.parametrize("gateways", [None, ()])
def test_nothing_is_removed_when_no_gateway_is_known(gateways: tuple[Gateway, ...] | None) -> None:
    decision = decide(Observations(2, ready(2), gateways), memory(quiet=3600))
    assert (decision.replicas, decision.reason) == (2, Reason.DEMAND_UNKNOWN)


def test_silent_queue_holds_what_takes_queued_tasks() -> None:
    spec = replace(SPEC, queued=True)
    decision = decide(seen(NOW, 2), memory(quiet=3600), spec)
    assert (decision.replicas, decision.reason) == (2, Reason.DEMAND_UNKNOWN)
    assert "the queue of tasks did not answer" in decision.message
    fresh = seen(NOW, 2, queue=QueueReport(NOW))
    assert decide(fresh, memory(quiet=3600), spec).drain == 2


def test_unknown_workers_hold_and_do_not_stop_a_rise() -> None:
    observations = replace(seen(NOW, 2), workers=None)
    assert decide(observations, memory(quiet=3600)).reason == Reason.WORKERS_UNKNOWN
    assert decide(replace(seen(NOW, 2, in_flight=96), workers=None)).replicas == 3


def test_forgotten_history_holds_for_a_window() -> None:
    decision = plan(NOW, seen(NOW, 3), SPEC, None)
    assert (decision.replicas, decision.drain, decision.reason) == (3, 0, Reason.HISTORY_UNKNOWN)
    after = decision.memory
    for seconds in range(10, 310, 10):
        now = NOW + timedelta(seconds=seconds)
        decision = plan(now, seen(now, 3), SPEC, after)
        after = decision.memory
        assert (decision.drain == 0) == (seconds < 300)


def test_gap_between_steps_counts_as_unknown() -> None:
    before = replace(memory(quiet=3600), at=NOW - timedelta(seconds=31))
    assert decide(seen(NOW, 2), before).reason == Reason.HISTORY_UNKNOWN


def test_history_never_raises_the_scale() -> None:
    """Someone set the scale to 1: only demand of now starts workers."""
    assert decide(seen(NOW, 1, in_flight=5), memory(peak=200)).replicas == 1


def test_workers_that_do_not_start_bring_no_others() -> None:
    failed = (worker("w-0", WorkerState.FAILED),)
    decision = decide(seen(NOW, 1, failed, held=500))
    assert (decision.replicas, decision.reason) == (1, Reason.WORKERS_NOT_STARTING)
    assert decision.message.startswith("500 held ask for 16 workers of 32 each; no more are started")
    several = (*ready(1, in_flight=32), *(worker(f"f-{index}", WorkerState.FAILED) for index in range(2)))
    assert decide(seen(NOW, 3, several, in_flight=32, held=500)).replicas == 3


def test_single_bad_worker_does_not_stop_a_rise() -> None:
    workers = (*ready(2, in_flight=32), worker("w-2", WorkerState.FAILED))
    assert decide(seen(NOW, 3, workers, in_flight=64, held=64)).replicas == 4


def test_lowered_maximum_holds_at_once() -> None:
    decision = decide(seen(NOW, 8, ready(8, in_flight=32), in_flight=256), spec=replace(SPEC, max_workers=4))
    assert (decision.replicas, decision.drain, decision.reason) == (4, 4, Reason.MAXIMUM_WORKERS)


def test_raised_minimum_holds_at_once() -> None:
    """KubeAI 193: an edited minimum was ignored."""
    decision = decide(seen(NOW, 1, in_flight=1), spec=replace(SPEC, min_workers=3))
    assert (decision.replicas, decision.reason) == (3, Reason.MINIMUM_WORKERS)


def test_next_look_is_when_the_quiet_ends_or_soon() -> None:
    assert decide(seen(NOW, 1), memory(quiet=100)).look_again_at == NOW + LOOK_EVERY
    assert decide(seen(NOW, 1), memory(quiet=596)).look_again_at == NOW + timedelta(seconds=4)


def test_sleeping_endpoint_is_not_looked_at() -> None:
    decision = decide(seen(NOW, 0), memory(quiet=3600))
    assert (decision.replicas, decision.look_again_at) == (0, None)


def test_clock_that_was_set_back_holds() -> None:
    before = ScalingMemory(NOW + timedelta(hours=1), LONG_AGO, LONG_AGO, (Peak(int(NOW.timestamp()) + 3600, 999),))
    decision = decide(seen(NOW, 2), before)
    assert (decision.replicas, decision.reason, decision.memory.peaks) == (2, Reason.HISTORY_UNKNOWN, ())


def test_first_step_of_a_new_endpoint_stays_at_zero() -> None:
    assert plan(START, seen(START, 0), SPEC, None).replicas == 0

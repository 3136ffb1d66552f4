"""Laws of the autoscaler, over many observations, traces and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patio_operator.modelendpoints.autoscaler import demand, memory
from patio_operator.modelendpoints.autoscaler.decision import Decision, Reason
from patio_operator.modelendpoints.autoscaler.memory import ScalingMemory, from_status, to_status
from patio_operator.modelendpoints.autoscaler.observation import (
    DemandReport,
    Gateway,
    Observations,
    QueueReport,
    Worker,
    WorkerState,
)
from patio_operator.modelendpoints.autoscaler.planner import plan
from patio_operator.modelendpoints.autoscaler.replay import replay
from patio_operator.modelendpoints.autoscaler.spec import ScalingSpec
from patio_operator.modelendpoints.autoscaler.trace import Step, read_line, write_line

from .builders import START, at, seen

NOW = at(7200)
GATEWAYS = ("gw-0", "gw-1", "gw-2")
MOST = {"states": 10, "replicas": 14}
seeds = st.integers(0, 2**32)
extra = st.integers(0, 400)


def drawn(chance: Random, now: datetime, level: int, gaps: float) -> Observations:
    """Return what might be seen: mostly calm, when something may be removed; `gaps`: the share of losses."""

    def sometimes(share: float) -> bool:
        return chance.random() < share

    def before(longest: float) -> datetime:
        return now - timedelta(seconds=round(chance.uniform(0, longest), 3))

    silent = chance.randrange(len(GATEWAYS)) if sometimes(gaps) else None
    gateways: tuple[Gateway, ...] | None = tuple(Gateway(name, before(40)) for name in GATEWAYS)
    if sometimes(gaps / 2):
        gateways = chance.choice([None, ()])
    reports = tuple(
        DemandReport(
            name,
            before(600 if index == silent else 10),
            chance.randrange(level + 1),
            chance.randrange(level + 1) if sometimes(0.2) else 0,
            before(1000) if sometimes(0.02) else None,
        )
        for index, name in enumerate(GATEWAYS)
        if index != silent or sometimes(0.5)
    )
    calm = [WorkerState.DRAINING] if sometimes(0.6) else [WorkerState.READY, WorkerState.DRAINING]
    states = calm if sometimes(0.7) else list(WorkerState)
    workers = tuple(
        Worker(
            f"w-{index}",
            chance.choice(states),
            before(1200),
            chance.choice([0, 0, 0, 0, 0, 3, None]),
        )
        for index in range(chance.randrange(1, MOST["states"]))
    )
    return Observations(
        replicas=len(workers) if sometimes(0.8) else chance.randrange(MOST["replicas"]),
        workers=None if sometimes(gaps / 2) else workers,
        gateways=gateways,
        reports=reports,
        queue=QueueReport(before(600 if sometimes(gaps) else 10), chance.randrange(level + 1))
        if not sometimes(gaps)
        else None,
    )


def drawn_level(chance: Random) -> int:
    return chance.choice([0, 0, 0, 1, 4, 40, 300])


@st.composite
def specs(draw: st.DrawFn) -> ScalingSpec:
    least = draw(st.sampled_from([0, 0, 0, 1, 3]))
    return ScalingSpec(
        min_workers=least,
        max_workers=least + draw(st.sampled_from([0, 1, 4, 9])),
        concurrency=draw(st.sampled_from([1, 8, 32])),
        scale_to_zero_after=timedelta(seconds=draw(st.sampled_from([0, 60, 350, 600]))),
        loading_grace=timedelta(seconds=draw(st.sampled_from([0, 300, 900]))),
        queued=draw(st.booleans()),
    )


@st.composite
def observations(draw: st.DrawFn) -> Observations:
    chance = Random(draw(seeds))
    return drawn(chance, NOW, drawn_level(chance), gaps=0.2)


@st.composite
def traces(draw: st.DrawFn) -> list[Step]:
    """Draw twenty minutes or more in steps, of which some are far apart; demand stays alike for minutes."""
    chance = Random(draw(seeds))
    now, level, gaps = START, drawn_level(chance), chance.choice([0.0, 0.002, 0.02])
    steps = []
    for _ in range(draw(st.integers(2, 140))):
        now += timedelta(seconds=chance.choice([2, 10, 10, 10, 20]) if chance.random() < 0.99 else 400)
        if chance.random() < 0.05:
            level = drawn_level(chance)
        steps.append(Step(now, drawn(chance, now, level, gaps)))
    return steps


@st.composite
def memories(draw: st.DrawFn) -> ScalingMemory | None:
    """Draw what some past left behind, which ends a moment before NOW."""
    if draw(st.integers(0, 9)) == 0:
        return None
    last = NOW - timedelta(seconds=draw(st.sampled_from([1, 10, 29, 60])))
    peaks = draw(st.lists(st.integers(1, 400), max_size=10, unique=True).map(lambda found: sorted(found, reverse=True)))
    return ScalingMemory(
        at=last,
        complete_since=last - timedelta(seconds=draw(st.sampled_from([0, 200, 400, 4000]))),
        last_activity=last - timedelta(seconds=draw(st.sampled_from([0, 50, 300, 4000]))),
        peaks=tuple(memory.Peak(int(NOW.timestamp()) - 30 * (12 - index), peak) for index, peak in enumerate(peaks)),
    )


@given(observations(), specs(), memories())
def test_replicas_are_within_the_bounds(seen_now: Observations, spec: ScalingSpec, kept: ScalingMemory | None) -> None:
    decision = plan(NOW, seen_now, spec, kept)
    assert spec.min_workers <= decision.replicas <= spec.max_workers
    assert 0 <= decision.drain <= len(seen_now.workers or ())


@given(observations(), specs(), memories(), extra, extra, extra)
def test_more_demand_never_gets_fewer_workers(
    seen_now: Observations, spec: ScalingSpec, kept: ScalingMemory | None, in_flight: int, held: int, waiting: int
) -> None:
    queue = seen_now.queue
    more = replace(
        seen_now,
        reports=tuple(
            replace(report, in_flight=report.in_flight + in_flight, held=report.held + held)
            for report in seen_now.reports
        ),
        queue=None if queue is None else replace(queue, waiting=queue.waiting + waiting),
    )
    low, high = plan(NOW, seen_now, spec, kept), plan(NOW, more, spec, kept)
    assert low.replicas <= high.replicas
    assert low.drain >= high.drain


@given(observations(), specs(), memories())
def test_busy_and_loading_workers_are_never_given_up(
    seen_now: Observations, spec: ScalingSpec, kept: ScalingMemory | None
) -> None:
    decision = plan(NOW, seen_now, spec, kept)
    protected = [
        each
        for each in seen_now.workers or ()
        if each.loads(NOW, spec.loading_grace)
        or (each.state in (WorkerState.READY, WorkerState.DRAINING) and each.in_flight != 0)
    ]
    assert decision.replicas >= min(len(protected), seen_now.replicas, spec.max_workers)


@given(observations(), specs(), memories())
def test_missing_data_never_scales_down(seen_now: Observations, spec: ScalingSpec, kept: ScalingMemory | None) -> None:
    seen_now = replace(seen_now, replicas=min(seen_now.replicas, spec.max_workers))
    complete = demand.demand_at(NOW, seen_now, spec.queued).complete and seen_now.workers is not None
    assume(not complete or kept is None)
    decision = plan(NOW, seen_now, spec, kept)
    stuck = sum(each.stuck(NOW, spec.loading_grace) for each in seen_now.workers or ())
    assert decision.replicas >= seen_now.replicas
    assert decision.drain <= max(0, len(seen_now.workers or ()) - stuck - seen_now.replicas)
    if decision.replicas == seen_now.replicas > spec.min_workers:
        assert decision.message


@given(traces(), specs())
def test_zero_comes_only_after_the_quiet(steps: list[Step], spec: ScalingSpec) -> None:
    requests: list[datetime] = []
    for step, decision in replay(steps, spec):
        total = demand.demand_at(step.now, step.observations, spec.queued)
        requests += [step.now] if total.total else []
        requests += [total.last_request] if total.last_request else []
        if decision.replicas == 0 < min(step.observations.replicas, spec.max_workers):
            assert spec.min_workers == 0
            assert step.now - steps[0].now >= spec.scale_to_zero_after
            assert all(step.now - request >= spec.scale_to_zero_after for request in requests)


@given(traces(), specs(), st.integers(0, 59), st.booleans())
def test_restart_never_scales_below_the_unbroken_run(
    steps: list[Step], spec: ScalingSpec, index: int, lost: bool
) -> None:
    whole = [decision for _, decision in replay(steps, spec)]
    index %= len(steps)
    kept = None if lost or not index else from_status(to_status(whole[index - 1].memory))
    resumed = [decision for _, decision in replay(steps[index:], spec, kept)]
    for unbroken, after in zip(whole[index:], resumed, strict=True):
        assert after.replicas >= unbroken.replicas
        assert after.drain <= unbroken.drain
    assert lost or resumed == whole[index:]


@given(traces(), specs())
def test_written_trace_gives_the_same_decisions(steps: list[Step], spec: ScalingSpec) -> None:
    again = [read_line(write_line(step)) for step in steps]
    assert again == steps
    assert list(replay(again, spec)) == list(replay(steps, spec))


@settings(max_examples=20)
@given(st.lists(st.integers(0, 10**9), min_size=400, max_size=600), st.sampled_from([1.0, 7.0, 29.0]))
def test_memory_stays_small_however_long_the_trace(demands: list[int], pause: float) -> None:
    kept: ScalingMemory | None = None
    for index, amount in enumerate(sorted(demands, reverse=True)):
        kept = plan(at(index * pause), seen(at(index * pause), 1, in_flight=amount), ScalingSpec(), kept).memory
        assert len(kept.peaks) <= memory.MOST_PEAKS
        assert len(str(to_status(kept))) < 2048


def teeth(period: int, low: int, high: int, seconds: int = 600) -> Iterator[tuple[int, int]]:
    """Yield second and demand of a sawtooth that rises evenly and falls at once, and of a long calm after it."""
    for second in range(0, seconds + 1200, 2):
        yield second, low + (high - low) * (second % period) // period if second < seconds else low


@given(st.integers(10, 300), st.integers(0, 60), st.integers(0, 250), st.integers(1, 64))
@settings(max_examples=60)
def test_ten_minutes_of_sawtooth_have_no_reversal(period: int, low: int, rise: int, concurrency: int) -> None:
    spec = ScalingSpec(min_workers=0, max_workers=300, concurrency=concurrency)
    kept: ScalingMemory | None = None
    replicas, fell = 0, False
    draining: frozenset[str] = frozenset()
    for second, amount in teeth(period, low, low + rise):
        workers = tuple(
            Worker(
                f"w-{index}",
                WorkerState.DRAINING if f"w-{index}" in draining else WorkerState.READY,
                START,
                0,
            )
            for index in range(replicas)
        )
        decision: Decision = plan(at(second), seen(at(second), replicas, workers, in_flight=amount), spec, kept)
        kept = decision.memory
        draining = frozenset(f"w-{index}" for index in range(replicas - decision.drain, replicas))
        assert not (fell and decision.replicas > replicas), f"up again at {second} s: {decision.message}"
        fell = fell or decision.replicas < replicas
        replicas = decision.replicas
    assert replicas <= max(1, -(-low // concurrency))
    assert fell or rise == 0 or decision.reason in (Reason.DEMAND_MET, Reason.RECENT_REQUEST, Reason.SCALED_TO_ZERO)

"""An endpoint in a loop with its autoscaler, from seeds: nothing is lost, and nothing goes while it loads or works."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from patio_operator.modelendpoints.autoscaler.decision import Reason
from patio_operator.modelendpoints.autoscaler.memory import ScalingMemory, from_status, to_status
from patio_operator.modelendpoints.autoscaler.planner import FIRST_WORKERS
from patio_operator.modelendpoints.autoscaler.replay import replay
from patio_operator.modelendpoints.autoscaler.spec import ScalingSpec

from .simulator import Outcome, Scenario, simulate

SPEC = ScalingSpec(min_workers=0, max_workers=12, concurrency=8, scale_to_zero_after=timedelta(minutes=10))
HOUR = 3600
SEEDS = range(3)


def waves(second: int) -> float:
    """Return requests a second: two waves of half an hour with bursts on them, and a quiet hour at the end."""
    if second > HOUR:
        return 0.0
    burst = 2.0 if second % 420 < 40 else 0.0
    return 1.2 * (1 - math.cos(2 * math.pi * second / 1800)) + burst


WAVES = Scenario(waves, seconds=2 * HOUR)


def checked(outcome: Outcome) -> Outcome:
    """Return an outcome in which all that must never happen did not."""
    assert outcome.violations == []
    assert outcome.served == outcome.arrived > 0
    return outcome


@pytest.mark.parametrize("seed", SEEDS)
def test_waves_lose_no_request_and_end_at_zero(seed: int) -> None:
    outcome = checked(simulate(WAVES, SPEC, seed))
    assert outcome.sizes[-1] == 0
    assert max(outcome.sizes) > FIRST_WORKERS
    # The first worker takes at most five minutes, and no request waits for a second one as long.
    assert outcome.longest_wait <= 320
    woken = [index for index, decision in enumerate(outcome.decisions) if decision.reason is Reason.WOKEN_BY_DEMAND]
    assert len(woken) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_same_seed_gives_the_same_decisions_and_replay(seed: int) -> None:
    scenario = replace(WAVES, seconds=1800)
    outcome = simulate(scenario, SPEC, seed)
    assert simulate(scenario, SPEC, seed).decisions == outcome.decisions
    assert [decision for _, decision in replay(outcome.steps, SPEC)] == outcome.decisions


@pytest.mark.parametrize("seed", SEEDS)
def test_lost_reports_of_a_gateway_lose_nothing_else(seed: int) -> None:
    """One of three gateways is silent for minutes, twice."""

    def silent(second: int, gateway: int) -> bool:
        return gateway == 1 and (600 <= second < 840 or 2400 <= second < 2900)

    outcome = checked(simulate(replace(WAVES, gateways=3, silent=silent), SPEC, seed))
    for step, decision in zip(outcome.steps, outcome.decisions, strict=True):
        if decision.reason is Reason.DEMAND_UNKNOWN:
            assert decision.replicas >= step.observations.replicas
            assert "gw-1" in decision.message


def forgetful(second: int, memory: ScalingMemory | None) -> ScalingMemory | None:
    return None if second % 700 < 2 else memory


def through_status(second: int, memory: ScalingMemory | None) -> ScalingMemory | None:
    return None if memory is None else from_status(to_status(memory))


@pytest.mark.parametrize("restart", [forgetful, through_status])
@pytest.mark.parametrize("seed", SEEDS)
def test_changes_of_leader_lose_nothing(
    seed: int, restart: Callable[[int, ScalingMemory | None], ScalingMemory | None]
) -> None:
    outcome = checked(simulate(replace(WAVES, restart=restart), SPEC, seed))
    if restart is through_status:
        assert outcome.decisions == simulate(WAVES, SPEC, seed).decisions


def test_workers_that_never_start_do_not_multiply() -> None:
    """Requests pile up for an hour: four workers at most, and they stay until their grace is over."""
    outcome = simulate(Scenario(lambda second: 0.2, HOUR, failing=True), replace(SPEC, max_workers=50), seed=1)
    assert max(outcome.sizes) == FIRST_WORKERS
    assert outcome.violations == []
    assert outcome.decisions[-1].reason is Reason.WORKERS_NOT_STARTING


def test_little_demand_spread_over_many_workers_scales_down() -> None:
    """Least requests first: each worker has one of a few requests, and none is ever idle by itself."""

    def fades(second: int) -> float:
        return 3.0 if second < 1200 else 0.35

    outcome = simulate(Scenario(fades, HOUR), SPEC, seed=3)
    assert outcome.violations == []
    assert outcome.sizes[1200] >= 8
    assert outcome.sizes[-1] <= 3


@pytest.mark.parametrize("seed", range(10))
def test_start_slower_than_the_quiet_is_waited_for(seed: int) -> None:
    """A few requests at once, whose worker takes up to five minutes, and zero after one minute: they are served."""
    first = Random(seed).randrange(10, 60)
    spec = replace(SPEC, scale_to_zero_after=timedelta(minutes=1))
    outcome = checked(simulate(Scenario(lambda second: 6.0 if second == first else 0.0, 1500), spec, seed))
    assert outcome.sizes[-1] == 0

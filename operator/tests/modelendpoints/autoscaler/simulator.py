"""A ModelEndpoint in a loop with its autoscaler: gateways, workers that start slowly, and what carries decisions out.

`simulate` goes second by second from a seed; it uses no clock and no other source of chance. `python -m` this module
writes the recorded day that the tests replay: see `recorded/README.md`.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

from patio_operator.modelendpoints.autoscaler.__main__ import main
from patio_operator.modelendpoints.autoscaler.decision import Decision
from patio_operator.modelendpoints.autoscaler.memory import ScalingMemory
from patio_operator.modelendpoints.autoscaler.observation import (
    DemandReport,
    Gateway,
    Observations,
    Worker,
    WorkerState,
)
from patio_operator.modelendpoints.autoscaler.planner import plan
from patio_operator.modelendpoints.autoscaler.spec import ScalingSpec
from patio_operator.modelendpoints.autoscaler.trace import Step, write_line
from patio_operator.modelendpoints.autoscaler.victims import choose_drains, choose_victims

from .builders import LONG_AGO, at

RECORDED = Path(__file__).parent / "recorded"
DAY = ScalingSpec(
    min_workers=0,
    max_workers=6,
    concurrency=8,
    scale_to_zero_after=timedelta(minutes=1),
    loading_grace=timedelta(minutes=5),
)
"""What `recorded/spec.yaml` says."""


@dataclass
class SimulatedWorker:
    """A worker; requests are the seconds at which they end, by the gateway that sent them."""

    name: str
    created: int
    ready_at: float
    adapters: frozenset[str] = frozenset()
    draining: bool = False
    requests: list[tuple[float, int]] = field(default_factory=list)


@dataclass
class Outcome:
    """What came of a simulation."""

    steps: list[Step] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Workers at the end of each second."""
    arrived: int = 0
    served: int = 0
    longest_wait: float = 0.0
    violations: list[str] = field(default_factory=list)
    """Workers that were removed while they loaded or worked."""


@dataclass(frozen=True)
class Scenario:
    """What happens to the endpoint."""

    rate: Callable[[int], float]
    """Requests a second, by the second."""
    seconds: int
    service: float = 20.0
    """Mean seconds of a request."""
    start: tuple[float, float] = (60.0, 300.0)
    """The shortest and longest start of a worker."""
    gateways: int = 2
    silent: Callable[[int, int], bool] = lambda second, gateway: False
    """Whether a gateway's report is lost, by second and gateway."""
    restart: Callable[[int, ScalingMemory | None], ScalingMemory | None] = lambda second, memory: memory
    """What is left of the memory in a second."""
    step: int = 2
    """Seconds between two steps."""
    failing: bool = False
    """Whether no worker ever becomes ready."""


def simulate(scenario: Scenario, spec: ScalingSpec, seed: int) -> Outcome:
    """Run a scenario."""
    chance = Random(seed)
    outcome = Outcome()
    workers: list[SimulatedWorker] = []
    held: deque[tuple[float, int]] = deque()
    reports: dict[int, DemandReport] = {}
    last_requests: dict[int, int] = {}
    memory: ScalingMemory | None = None
    replicas = created = 0
    for second in range(scenario.seconds):
        for each in workers:
            ended = [request for request in each.requests if request[0] <= second]
            for request in ended:
                each.requests.remove(request)
                last_requests[request[1]] = second
            outcome.served += len(ended)
        for _ in range(arrivals(chance, scenario.rate(second))):
            gateway = chance.randrange(scenario.gateways)
            held.append((second, gateway))
            last_requests[gateway] = second
            outcome.arrived += 1
        while held:
            free = [
                each
                for each in workers
                if each.ready_at <= second and not each.draining and len(each.requests) < spec.concurrency
            ]
            if not free:
                break
            arrival, gateway = held.popleft()
            outcome.longest_wait = max(outcome.longest_wait, second - arrival)
            service = 1 + chance.expovariate(1 / scenario.service)
            min(free, key=lambda each: len(each.requests)).requests.append((second + service, gateway))
        for gateway in range(scenario.gateways):
            if not scenario.silent(second, gateway):
                last = last_requests.get(gateway)
                reports[gateway] = DemandReport(
                    f"gw-{gateway}",
                    at(second),
                    sum(sender == gateway for each in workers for _, sender in each.requests),
                    sum(sender == gateway for _, sender in held),
                    None if last is None else at(last),
                )
        if second % scenario.step == 0:
            memory = scenario.restart(second, memory)
            observed = tuple(observe(each, second) for each in workers)
            observations = Observations(
                replicas,
                observed,
                tuple(Gateway(f"gw-{index}", LONG_AGO) for index in range(scenario.gateways)),
                tuple(reports.values()),
            )
            decision = plan(at(second), observations, spec, memory)
            memory = decision.memory
            outcome.steps.append(Step(at(second), observations))
            outcome.decisions.append(decision)
            drains = {each.name for each in choose_drains(observed, decision.drain, at(second), spec.loading_grace)}
            for each in workers:
                each.draining = each.name in drains
            surplus = len(workers) - decision.replicas
            victims = choose_victims(observed, surplus, at(second), spec.loading_grace)
            names = {victim.name for victim in victims}
            outcome.violations += [
                f"{second}: {each.name} {'loads' if each.ready_at > second else 'works'}"
                for each in workers
                if each.name in names and (each.requests or observe(each, second).loads(at(second), spec.loading_grace))
            ]
            workers = [each for each in workers if each.name not in names]
            replicas = decision.replicas
            while len(workers) < replicas:
                delay = math.inf if scenario.failing else chance.uniform(*scenario.start)
                workers.append(SimulatedWorker(f"w-{created}", second, second + delay))
                created += 1
        outcome.sizes.append(len(workers))
    return outcome


def observe(each: SimulatedWorker, second: int) -> Worker:
    """Return a worker as the operator sees it."""
    if each.ready_at > second:
        return Worker(each.name, WorkerState.LOADING, at(each.created))
    state = WorkerState.DRAINING if each.draining else WorkerState.READY
    return Worker(each.name, state, at(each.created), len(each.requests), each.adapters)


def arrivals(chance: Random, rate: float) -> int:
    """Return how many requests come in a second (Poisson, by Knuth)."""
    count, product, bound = 0, chance.random(), math.exp(-rate)
    while product > bound:
        count += 1
        product *= chance.random()
    return count


def day_rate(second: int) -> float:
    """Return requests a second of a day in ten minutes: the morning at 0:15, the peak at 2:10, the evening at 4:00."""
    if not 15 <= second <= 240:
        return 0.0
    return 3.2 * math.sin(math.pi * (second - 15) / 225) ** 2


def recorded_day() -> Outcome:
    """Return the day that is recorded."""
    scenario = Scenario(day_rate, seconds=660, service=5.0, start=(15.0, 40.0), step=5)
    return simulate(scenario, DAY, seed=2026)


def reversals(sizes: list[int]) -> int:
    """Return how often the number of workers went down and then up."""
    moves = [after - before for before, after in pairwise(sizes) if after != before]
    return sum(before < 0 < after for before, after in pairwise(moves))


if __name__ == "__main__":
    lines = [write_line(step) for step in recorded_day().steps]
    (RECORDED / "day.jsonl").write_text("\n".join(lines) + "\n")
    with (RECORDED / "day.txt").open("w") as stream, redirect_stdout(stream):
        sys.exit(main([str(RECORDED / "day.jsonl"), "--spec", str(RECORDED / "spec.yaml")]))

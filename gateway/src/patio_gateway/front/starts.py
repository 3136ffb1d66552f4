"""Cold starts: how long requests waited for a model's first worker, and in which phase of the start. Pure.

A cold start begins when something waits for a model without a worker, and ends when it has a worker, or when nothing
waits any more. `metrics` counts what `moved` returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from patio_gateway.snapshot import Model, StartPhase


@dataclass(frozen=True)
class Starting:
    """A cold start on its way. Times are in seconds of one clock."""

    began: float
    phase: StartPhase
    phase_began: float
    phases: Mapping[StartPhase, float] = field(default_factory=dict)
    """Seconds in the phases before this one."""


@dataclass(frozen=True)
class Started:
    """A cold start that ended."""

    endpoint: str
    ready: bool
    """Whether there is a worker now; else nobody waits for it any more."""
    seconds: float
    phases: Mapping[StartPhase, float]


Starts = Mapping[str, Starting]
"""The cold starts on their way, by ModelEndpoint."""


def moved(
    starts: Starts, models: Mapping[str, Model], waiting: frozenset[str], now: float
) -> tuple[Starts, tuple[Started, ...]]:
    """Return the cold starts on their way now, and those that have ended."""
    current: dict[str, Starting] = {}
    ended = []
    for endpoint in {*starts, *waiting}:
        model, start = models.get(endpoint), starts.get(endpoint)
        if model is None:
            continue
        if endpoint in waiting and not model.workers:
            current[endpoint] = _in_phase(start, model.start.phase, now)
        elif start is not None:
            phases = _with_phase(start, now)
            ended.append(Started(endpoint, bool(model.workers), now - start.began, phases))
    return current, tuple(ended)


def _in_phase(start: Starting | None, phase: StartPhase, now: float) -> Starting:
    if start is None:
        return Starting(now, phase, now)
    if start.phase is phase:
        return start
    return Starting(start.began, phase, now, _with_phase(start, now))


def _with_phase(start: Starting, now: float) -> Mapping[StartPhase, float]:
    return {**start.phases, start.phase: start.phases.get(start.phase, 0.0) + now - start.phase_began}

"""What a drain measures of itself, in the registry that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from patio.drain.planner import DrainOutcome
from patio.written_metrics import Observations, Read, Tally, gauges


class DrainMetrics:
    """Answered calls; and, read when it is scraped, whether the pod is out of service."""

    def __init__(self, registry: CollectorRegistry, draining: Callable[[], bool]) -> None:
        self._drains = Tally(
            "patio:drains_total",
            "Calls for a drain that were answered, by outcome.",
            ("outcome",),
            registry,
            initial=((str(outcome),) for outcome in DrainOutcome),
        )
        self._seconds = Observations(
            "patio:drain_duration_seconds",
            "Seconds from a call for a drain to its answer.",
            (),
            (0.5, 1, 2.5, 5, 10, 15, 20, 25, 30, 60, 120, 300, 600, 1800, 3600),
            registry,
        )
        registry.register(Read(draining, _draining))

    def count_answer(self, outcome: DrainOutcome, seconds: float) -> None:
        """Count a call for a drain that is answered now."""
        self._drains.count(str(outcome))
        self._seconds.observe(seconds)


def _draining(draining: bool) -> Iterator[Metric]:
    message = "1 from the first call for a drain on: the pod is out of service until its sidecar restarts."
    yield gauges("patio:draining", message, (), {(): float(draining)})

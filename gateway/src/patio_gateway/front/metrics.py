"""Metrics of the front, in a registry of its own. Labels are ModelEndpoints that exist, outcomes, phases and codes.

What a ModelEndpoint had is taken out when it is deleted, so the number of series follows the number of endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from patio_gateway.front.holder import Outcome
from patio_gateway.front.knowledge import Index
from patio_gateway.front.starts import Starts, moved
from patio_gateway.snapshot import StartPhase

WAITS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Seconds, of buckets."""

CODES = frozenset({200, 307, 400, 404, 405, 413, 429, 499, 500, 502, 503, 504})


class Metrics:
    """The metrics, and the cold starts on their way."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.lengths: Callable[[], Mapping[str, int]] = dict
        """Returns how many requests wait, by ModelEndpoint."""
        self._starts: Starts = {}
        self._endpoints: frozenset[str] = frozenset()
        self._queue = Gauge(
            "patio_gateway_queue_length", "Requests that wait for a worker.", ["endpoint"], registry=self.registry
        )
        self._wait_seconds = Histogram(
            "patio_gateway_queue_seconds",
            "How long requests waited for a worker, by how the wait ended.",
            ["endpoint", "outcome"],
            buckets=WAITS,
            registry=self.registry,
        )
        self._cold_starts = Histogram(
            "patio_gateway_cold_start_seconds",
            "From the first request that waits for a model without a worker until it has one (ready), "
            "or until the last waiting request has left (abandoned).",
            ["endpoint", "outcome"],
            buckets=WAITS,
            registry=self.registry,
        )
        self._phases = Counter(
            "patio_gateway_cold_start_phase_seconds",
            "Seconds of cold starts by their phase.",
            ["endpoint", "phase"],
            registry=self.registry,
        )
        self._answers = Counter(
            "patio_gateway_front_answers", "Answers of the front, by status.", ["code"], registry=self.registry
        )

    def wait_ended(self, endpoint: str, outcome: Outcome, seconds: float) -> None:
        """Count a wait."""
        if endpoint in self._endpoints:
            self._wait_seconds.labels(endpoint, outcome.value).observe(seconds)

    def moved(self, index: Index, waiting: frozenset[str], now: float) -> None:
        """Follow the cold starts, and forget ModelEndpoints that are deleted."""
        endpoints = frozenset(index.endpoints)
        if endpoints != self._endpoints:
            for endpoint in self._endpoints - endpoints:
                self._forget(endpoint)
            self._endpoints = endpoints
        if not waiting and not self._starts:
            return
        self._starts, ended = moved(self._starts, index.endpoints, waiting, now)
        for start in ended:
            outcome = "ready" if start.ready else "abandoned"
            self._cold_starts.labels(start.endpoint, outcome).observe(start.seconds)
            for phase, seconds in start.phases.items():
                self._phases.labels(start.endpoint, phase.value).inc(seconds)

    def answered(self, code: int) -> None:
        """Count an answer."""
        self._answers.labels(str(code) if code in CODES else "other").inc()

    def text(self) -> bytes:
        """Return what Prometheus reads."""
        lengths = self.lengths()
        for endpoint in self._endpoints:
            self._queue.labels(endpoint).set(lengths.get(endpoint, 0))
        return generate_latest(self.registry)

    def _forget(self, endpoint: str) -> None:
        for outcome in Outcome:
            self._remove(self._wait_seconds, endpoint, outcome.value)
        for word in ("ready", "abandoned"):
            self._remove(self._cold_starts, endpoint, word)
        for phase in StartPhase:
            self._remove(self._phases, endpoint, phase.value)
        self._remove(self._queue, endpoint)

    @staticmethod
    def _remove(metric: Counter | Gauge | Histogram, *labels: str) -> None:
        with suppress(KeyError):
            metric.remove(*labels)

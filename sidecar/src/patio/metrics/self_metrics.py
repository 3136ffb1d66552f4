"""The sidecar's own metrics, in one registry that is passed in.

Counted by `scrape` and by whoever watches the reconciler; written out by `text`, behind the engine's. Nothing here
reads the engine, and no process metrics are registered: engines bring their own under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.registry import Collector

from patio.metrics.rewrite import Format

AdapterStates = Callable[[], Iterable[tuple[str, str]]]
"""Name and state of every adapter, now."""


class _AdapterStates(Collector):
    """`patio:lora_adapter_state`, read when it is asked for: an adapter that is gone leaves no series behind."""

    def __init__(self, states: AdapterStates) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "patio:lora_adapter_state",
            "1 for the state that each adapter, wanted or present, is in.",
            labels=("adapter", "state"),
        )
        for adapter, state in self._states():
            family.add_metric((adapter, state), 1.0)
        yield family


class SelfMetrics:
    """What the sidecar measures of itself."""

    def __init__(
        self, registry: CollectorRegistry, states: AdapterStates, version: str, engine: str, engine_version: str
    ) -> None:
        self._registry = registry
        self.engine_up = Gauge(
            "patio:engine_up",
            "1 if the engine's metrics were read by this scrape; without scraping, 1 if the engine is ready.",
            registry=registry,
        )
        self.scrape_duration = Gauge(
            "patio:scrape_duration_seconds",
            "Seconds that the last scrape of the engine took, rewriting included.",
            registry=registry,
        )
        self.scrape_errors = Counter(
            "patio:engine_scrape_errors_total", "Scrapes of the engine that failed.", ("reason",), registry=registry
        )
        self._operations = Counter(
            "patio:lora_operations_total",
            "Loads, reloads, restores and unloads asked of the engine.",
            ("operation", "outcome", "reason"),
            registry=registry,
        )
        self._operation_seconds = Histogram(
            "patio:lora_operation_duration_seconds",
            "Seconds that loads, reloads, restores and unloads took, reading back included.",
            ("operation",),
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=registry,
        )
        Gauge(
            "patio:build_info",
            "1; labels say what runs.",
            ("version", "inference_engine", "inference_engine_version"),
            registry=registry,
        ).labels(version, engine, engine_version).set(1)
        registry.register(_AdapterStates(states))

    def count_operation(self, operation: str, outcome: str, reason: str, seconds: float) -> None:
        """Count one load, reload, restore or unload."""
        self._operations.labels(operation, outcome, reason).inc()
        self._operation_seconds.labels(operation).observe(seconds)

    def text(self, form: Format = Format.TEXT) -> bytes:
        """Return all of it."""
        if form is Format.TEXT:
            return generate_latest(self._registry)
        # By default prometheus-client 0.26 makes underscores of the colons, in samples only. It has no types there.
        written: bytes = openmetrics(self._registry, escaping="allow-utf-8")  # type: ignore[no-untyped-call]
        return written

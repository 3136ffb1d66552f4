"""What the sidecar measures of its adapters, in the registry that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from patio.adapters.executor import Attempt
from patio_protocol.adapters import AdapterReport


class AdapterMetrics:
    """Counters of what the engine was asked for; and the state of each adapter, read when it is scraped."""

    def __init__(self, registry: CollectorRegistry, reports: Callable[[], Sequence[AdapterReport]]) -> None:
        self._operations = Counter(
            "patio:lora_operations_total",
            "Loads, reloads, restores and unloads that the sidecar sent to the engine.",
            ("operation", "outcome", "reason"),
            registry=registry,
        )
        self._seconds = Histogram(
            "patio:lora_operation_duration_seconds",
            "Seconds that a load, reload, restore or unload took, including the read of the engine's list.",
            ("operation",),
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=registry,
        )
        registry.register(_AdapterStates(reports))

    def count_attempt(self, attempt: Attempt) -> None:
        """Count one load, reload, restore or unload."""
        self._operations.labels(attempt.operation, attempt.outcome, attempt.reason).inc()
        self._seconds.labels(attempt.operation).observe(attempt.seconds)


class _AdapterStates(Collector):
    """`patio:lora_adapter_state`, read when it is scraped: an adapter that is gone leaves no series behind."""

    def __init__(self, reports: Callable[[], Sequence[AdapterReport]]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "patio:lora_adapter_state",
            "1 for the state of each adapter that is desired or loaded.",
            labels=("adapter", "state"),
        )
        for report in self._reports():
            family.add_metric((report.lora_name, report.state.value), 1.0)
        yield family

"""What the sidecar measures of its adapters, in the registry that is passed in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import product

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from patio.adapters.executor import Attempt
from patio.engine.base import EngineReason
from patio.written_metrics import Observations, Read, Tally, gauges
from patio_protocol.adapters import AdapterReport

LONGEST_REVISION = 64
"""Characters of a revision in a label. A longer one stands there as the first 12 digits of its SHA-256."""

OPERATIONS = ("load", "reload", "restore", "unload")
ENDS = (
    ("ok", ""),
    ("retry", EngineReason.UNREACHABLE),
    ("retry", EngineReason.ENGINE_ERROR),
    ("retry", EngineReason.NOT_LISTED),
    ("permanent", EngineReason.ADAPTER_NOT_FOUND),
    ("permanent", EngineReason.ADAPTER_REJECTED),
    ("permanent", EngineReason.LORA_UNAVAILABLE),
    ("permanent", EngineReason.UNAUTHORIZED),
)
"""Outcomes and reasons that an operation is known to end with."""


class AdapterMetrics:
    """Counters of what the engine was asked for; and how each adapter stands, read when it is scraped."""

    def __init__(self, registry: CollectorRegistry, reports: Callable[[], Sequence[AdapterReport]]) -> None:
        """`reports` returns the same object for as long as no adapter changes."""
        self._operations = Tally(
            "patio:lora_operations_total",
            "Loads, reloads, restores and unloads that the sidecar sent to the engine.",
            ("operation", "outcome", "reason"),
            registry,
            initial=((operation, outcome, str(reason)) for operation, (outcome, reason) in product(OPERATIONS, ENDS)),
        )
        self._seconds = Observations(
            "patio:lora_operation_duration_seconds",
            "Seconds that a load, reload, restore or unload took, including the read of the engine's list.",
            ("operation",),
            (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry,
        )
        registry.register(Read(reports, _families))

    def count_attempt(self, attempt: Attempt) -> None:
        """Count one load, reload, restore or unload."""
        self._operations.count(attempt.operation, attempt.outcome, attempt.reason)
        self._seconds.observe(attempt.seconds, attempt.operation)


def _families(reports: Sequence[AdapterReport]) -> Iterator[Metric]:
    """Yield how adapters stand: an adapter that is gone leaves no series behind."""
    yield gauges(
        "patio:lora_adapter_state",
        "1 for the state of each adapter that is desired or loaded.",
        ("adapter", "state"),
        {(report.lora_name, report.state.value): 1.0 for report in reports},
    )
    yield gauges(
        "patio:lora_adapter_state_timestamp_seconds",
        "Unix time at which each adapter's state began.",
        ("adapter", "state"),
        {(report.lora_name, report.state.value): report.since for report in reports},
    )
    yield gauges(
        "patio:lora_adapter_info",
        "Always 1; the labels say which revision the engine serves, where its files come from, and whether the pod "
        "waits for it.",
        ("adapter", "revision", "source", "required"),
        {
            (report.lora_name, _revision(report.held_revision), _source(report), str(report.required).lower()): 1.0
            for report in reports
        },
    )


def _revision(revision: str | None) -> str:
    if revision is None:
        return ""
    return revision if len(revision) <= LONGEST_REVISION else hashlib.sha256(revision.encode()).hexdigest()[:12]


def _source(report: AdapterReport) -> str:
    """Return the kind of the source; `path` where an order named a folder."""
    return "path" if report.source is None else report.source.partition("://")[0]

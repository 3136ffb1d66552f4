"""The operator's Prometheus metrics, on a registry of their own."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from patio_operator.runtime.workqueue import Key, Work


class Metrics:
    """The operator's metrics, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.admissions = Counter(
            "patio_operator_admissions_total", "Pods reviewed, by outcome.", ["outcome"], registry=self.registry
        )
        self.validations = Counter(
            "patio_operator_reviews_total",
            "Profiles and LoraAdapters checked before they are stored, RoleBasedGroups converted, by kind and outcome.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.admission_seconds = Histogram(
            "patio_operator_admission_duration_seconds",
            "Time to answer one admission.",
            buckets=(0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 1.0, 5.0),
            registry=self.registry,
        )
        self.passes = Counter(
            "patio_operator_reconciles_total",
            "Passes of a reconciler, by kind and outcome.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.pass_seconds = Histogram(
            "patio_operator_reconcile_duration_seconds",
            "Time of one pass of a reconciler.",
            ["kind"],
            registry=self.registry,
        )
        self.leader = Gauge(
            "patio_operator_leader", "1 in the replica that reconciles, 0 in the others.", registry=self.registry
        )
        self.observing = Gauge(
            "patio_operator_observing_groups",
            "1 while upstream's controller realises RoleBasedGroups, 0 while this operator does.",
            registry=self.registry,
        )

    def measured(self, kind: str, work: Work) -> Work:
        """Return a reconciler's work with each of its passes counted and timed."""

        async def measured(key: Key) -> float | None:
            started = time.perf_counter()
            outcome = "error"
            try:
                requeue_after = await work(key)
                outcome = "success"
                return requeue_after
            finally:
                self.passes.labels(kind, outcome).inc()
                self.pass_seconds.labels(kind).observe(time.perf_counter() - started)

        return measured

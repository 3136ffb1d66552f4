"""Two replicas of the operator as Prometheus sees them: the operator's own metrics, counting made-up work.

For the pictures of the dashboards, which need no cluster this way. Names, labels and buckets are those of the product,
since the product's own `Metrics` count; how often something happens, and how long it takes, is drawn by chance.
"""

from __future__ import annotations

import random

from patio_operator.telemetry.metrics import Metrics

KINDS = {"LoraAdapter": (3.0, 0.03), "RoleBasedGroup": (1.2, 0.015), "ClusterEngineRuntimeProfile": (0.2, 0.006)}
"""Passes a second of a reconciler, and the usual seconds of a pass."""
FAILED_PASSES = 0.01
ADMISSIONS = 0.6
"""Pods a second that each replica reviews."""
REJECTED = 0.04
"""Share of the admissions that end so."""


class OperatorReplica:
    """One replica and its numbers. `advance` is called each second."""

    def __init__(self, seed: int) -> None:
        self.metrics = Metrics()
        self._chance = random.Random(seed)
        self.metrics.observing.set(0)
        self.metrics.leader.set(0)

    def advance(self, *, leads: bool) -> None:
        """Let one second pass. Both replicas review, and only the leader reconciles."""
        self.metrics.leader.set(1 if leads else 0)
        for _ in range(self._number(ADMISSIONS)):
            rejected = self._chance.random() < REJECTED
            self.metrics.admissions.labels("rejected" if rejected else "allowed").inc()
            self.metrics.admission_seconds.observe(self._seconds(0.006))
        for _ in range(self._number(0.1)):
            self.metrics.validations.labels("LoraAdapter", "allowed").inc()
        if not leads:
            return
        for kind, (rate, usual) in KINDS.items():
            for _ in range(self._number(rate)):
                outcome = "error" if self._chance.random() < FAILED_PASSES else "success"
                self.metrics.passes.labels(kind, outcome).inc()
                self.metrics.pass_seconds.labels(kind).observe(self._seconds(usual))

    def _number(self, expected: float) -> int:
        """Return how often something that happens `expected` times a second happened in this one."""
        return sum(self._chance.random() < expected / 10 for _ in range(10))

    def _seconds(self, usual: float) -> float:
        return self._chance.lognormvariate(0, 0.5) * usual

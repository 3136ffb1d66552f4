"""Two replicas of the operator as Prometheus sees them: the operator's own metrics, counting made-up work.

For the pictures of the dashboards, which need no cluster this way. Names, labels and buckets are those of the product,
since the product's own `Metrics` count; how often something happens, and how long it takes, is drawn by chance.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from patio_operator.telemetry.metrics import Metrics
from patio_operator.telemetry.object_gauges import ObjectState

KINDS = {"LoraAdapter": (3.0, 0.03), "RoleBasedGroup": (1.2, 0.015), "ClusterEngineRuntimeProfile": (0.2, 0.006)}
"""Passes a second of a reconciler, and the usual seconds of a pass."""
FAILED_PASSES = 0.01
ADMISSIONS = 0.6
"""Pods a second that each replica reviews."""
OUTCOMES = {("allowed", "injected"): 0.7, ("allowed", "unchanged"): 0.26, ("rejected", "profile_not_found"): 0.04}
"""Share of the admissions that end so."""
REQUESTS = {"get": (2.0, 200), "list": (0.3, 200), "watch": (0.3, 200), "apply": (1.5, 200), "patch": (0.4, 409)}
"""Requests a second to the API server, and the status of each answer."""
CALLS = {"watch": 1.5, "list": 0.5, "load": 0.1}
"""Calls a second to sidecars."""
DAY = 86_400


@dataclass
class Queue:
    """A work queue as it tells of itself."""

    retries: int = 0
    depth: int = 0
    retrying: int = 0
    oldest_seconds: float = 0.0


class OperatorReplica:
    """One replica and its numbers. `advance` is called each second."""

    def __init__(self, seed: int) -> None:
        self.metrics = Metrics()
        self._chance = random.Random(seed)
        self._queues = {kind: Queue() for kind in KINDS}
        self._started = time.time()
        metrics = self.metrics
        metrics.registry.register(_Objects(metrics))
        metrics.built("0.1.0")
        metrics.observing.set(0)
        for kind, queue in self._queues.items():
            metrics.queues.register(kind, queue)
        ends = {"serving": self._started + 80 * DAY, "ca": self._started + 3000 * DAY}
        metrics.certificate_expiry.read = lambda: ends
        metrics.signing_key_created.read = lambda: {"": self._started - 10 * DAY}
        metrics.watch_synced.read = lambda: dict.fromkeys(("pods", "loraadapters", "rolebasedgroups"), 1)
        self._followed = {"reachable": 5, "unreachable": 0, "rejecting": 0, "unknown": 0}
        metrics.leads(False)

    def advance(self, *, leads: bool) -> None:
        """Let one second pass. Both replicas review, and only the leader reconciles."""
        metrics = self.metrics
        if leads != metrics.acting:
            metrics.leads(leads)
            metrics.sidecars.read = lambda: self._followed if leads else {}
            for kind, queue in self._queues.items():
                self._queues[kind].depth = queue.depth if leads else 0
        metrics.lease_transitions.read = lambda: {"": 1}
        metrics.loop_lag.observe(self._seconds(0.002))
        for _ in range(self._number(ADMISSIONS)):
            outcome, reason = self._chance.choices(list(OUTCOMES), list(OUTCOMES.values()))[0]
            metrics.reviewed("pods", outcome, reason, 0, self._seconds(0.006))
        for _ in range(self._number(0.1)):
            metrics.reviewed("loraadapters", "allowed", "accepted", 0, self._seconds(0.004))
        if leads:
            self._reconcile()

    def _reconcile(self) -> None:
        metrics = self.metrics
        for kind, (rate, usual) in KINDS.items():
            queue = self._queues[kind]
            for _ in range(self._number(rate)):
                failed = self._chance.random() < FAILED_PASSES
                queue.retries += queue.retrying
                queue.retrying = int(failed)
                metrics.passes.labels(kind, "error" if failed else "success").inc()
                metrics.pass_seconds.labels(kind).observe(self._seconds(usual))
            queue.depth = self._number(rate / 5)
            queue.oldest_seconds = queue.depth * self._seconds(0.2)
        for verb, (rate, status) in REQUESTS.items():
            for _ in range(self._number(rate)):
                metrics.requested(verb, status, self._seconds(0.008))
        for call, rate in CALLS.items():
            for _ in range(self._number(rate)):
                metrics.called(call, 200, self._seconds(0.02))
        self._objects()

    def _objects(self) -> None:
        """Tell of some objects, one of which is not as it should be."""
        put = self.metrics.adapters.put
        put("team-a", "sql-expert", ObjectState("True", "Loaded", (3, 3, 3, 0)))
        put("team-a", "translator", ObjectState("True", "Loaded", (2, 2, 2, 0)))
        put("team-a", "legal-draft", ObjectState("False", "AdapterRejected", (1, 0, 0, 1)))
        put("team-b", "search-rewrite", ObjectState("True", "Loaded", (2, 2, 2, 0)))
        self.metrics.groups.put("team-a", "chat", ObjectState("True", "AllRolesReady", (1, 1)))
        self.metrics.groups.put("team-b", "search", ObjectState("True", "AllRolesReady", (2, 2)))
        self.metrics.profiles.put("", "vllm", ObjectState("True", "UpToDate", (3, 0)))
        self.metrics.profiles.put("", "sglang", ObjectState("False", "PodsBehind", (1, 1)))

    def _number(self, expected: float) -> int:
        """Return how often something that happens `expected` times a second happened in this one."""
        return sum(self._chance.random() < expected / 10 for _ in range(10))

    def _seconds(self, usual: float) -> float:
        return self._chance.lognormvariate(0, 0.5) * usual


class _Objects(Collector):
    """What follows objects, which the operator appends to the text of its registry."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Yield the families of objects that this replica shows."""
        for gauges in self._metrics.objects:
            text = gauges.text(shown=self._metrics.acting)
            while True:
                try:
                    next(text)
                except StopIteration as finished:
                    yield from text_string_to_metric_families(finished.value)
                    break

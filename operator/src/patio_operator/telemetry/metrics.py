"""The operator's Prometheus metrics, on a registry of their own.

Whoever has something to count gets a method of `Metrics`, or one of its families. What others keep anyhow (queues, the
sidecars that are followed) is read when Prometheus asks (`telemetry.collectors`); what follows objects is kept apart
(`telemetry.object_gauges`). Label sets that are known are there from the start, with 0: `increase()` of a counter that
begins with its first event does not see that event. No label has a value that a user of the cluster can choose, apart
from names of objects in `object_gauges`, which are bounded there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from patio_kube.runtime.workqueue import Key, Work
from patio_operator.telemetry import codes, object_gauges
from patio_operator.telemetry.collectors import Queues, ReadFamily
from patio_operator.telemetry.object_gauges import ObjectGauges

KINDS = ("LoraAdapter", "RoleBasedGroup", "ClusterEngineRuntimeProfile")
"""Kinds that have a reconciler."""
FAULTS = ("api_error", "busy", "incomplete", "not_a_review", "timeout")
"""Reasons of a review that ends with an error, of every webhook."""
REASONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "pods": {
        "allowed": ("injected", "left_to_upstream", "unchanged"),
        "rejected": ("invalid_request", "not_injectable", "profile_not_found", "too_large"),
    },
    "profiles": {"allowed": ("accepted", "not_tried", "unchanged"), "rejected": ("dry_run_failed",)},
    "loraadapters": {"allowed": ("accepted", "not_compared"), "rejected": ("endpoint_without_tls", "name_taken")},
    "conversion": {"allowed": ("converted",), "rejected": ("not_converted",)},
}
"""What a review can come to, by webhook and outcome."""
VERBS = {"get": 200, "list": 200, "watch": 200, "create": 201, "patch": 200, "apply": 200, "delete": 200}
"""Verbs of requests to the API server, with the status of a usual answer."""
CALLS = ("list", "watch", "load", "unload", "handshake")
"""Calls to sidecars."""
TIMED_CALLS = ("list", "load", "unload", "handshake")
"""Those that do not wait for something to happen."""
ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds."""
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds."""


class Metrics:
    """The operator's metrics."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._build = Gauge(
            "patio_operator_build_info", "Always 1; the label names the version.", ["version"], registry=registry
        )
        self.loop_lag = Histogram(
            "patio_operator_event_loop_lag_seconds",
            "Seconds by which a timer of the event loop was late, looked at ten times a second.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self._reviews = Counter(
            "patio_operator_admissions_total",
            "Reviews that the webhooks answered, by webhook, outcome and reason: pods injected, profiles and "
            "LoraAdapters checked before they are stored, RoleBasedGroups converted.",
            ["webhook", "outcome", "reason"],
            registry=registry,
        )
        self._warnings = Counter(
            "patio_operator_admission_warnings_total",
            "Warnings in the answers of the webhooks.",
            ["webhook"],
            registry=registry,
        )
        self._review_seconds = Histogram(
            "patio_operator_admission_duration_seconds",
            "Time to answer one review that did not end with an error.",
            ["webhook"],
            buckets=(0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 1.0, 5.0),
            registry=registry,
        )
        self.passes = Counter(
            "patio_operator_reconciles_total",
            "Passes of a reconciler, by kind and outcome.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.pass_seconds = Histogram(
            "patio_operator_reconcile_duration_seconds",
            "Time of one pass of a reconciler.",
            ["kind"],
            registry=registry,
        )
        self.leader = Gauge(
            "patio_operator_leader", "1 in the replica that reconciles, 0 in the others.", registry=registry
        )
        self.lease_renewal_failures = Counter(
            "patio_operator_lease_renew_failures_total",
            "Attempts of the leader to renew its Lease that the API server did not confirm.",
            registry=registry,
        )
        self.observing = Gauge(
            "patio_operator_observing_groups",
            "1 while upstream's controller realises RoleBasedGroups, 0 while this operator does.",
            registry=registry,
        )
        self._api_requests = Counter(
            "patio_operator_api_requests_total",
            "Requests to the API server, by verb and code of the answer; none: no answer came. kopf's are not counted.",
            ["verb", "code"],
            registry=registry,
        )
        self._api_seconds = Histogram(
            "patio_operator_api_request_duration_seconds",
            "Time of one request to the API server, watches left out.",
            ["verb"],
            buckets=ANSWER_BUCKETS,
            registry=registry,
        )
        self.watch_restarts = Counter(
            "patio_operator_watch_restarts_total",
            "Watches of the API server that were lost and begun again, by resource.",
            ["resource"],
            registry=registry,
        )
        self.watch_synced = ReadFamily(
            registry,
            GaugeMetricFamily,
            "patio_operator_watch_synced",
            "1 while the watches of a resource are there, 0 while what the operator knows of it may be old.",
            "resource",
        )
        self._calls = Counter(
            "patio_operator_sidecar_calls_total",
            "Calls to sidecars, by call and code of the answer; none: no answer came. watch is a long-poll.",
            ["call", "code"],
            registry=registry,
        )
        self._call_seconds = Histogram(
            "patio_operator_sidecar_call_duration_seconds",
            "Time until a sidecar answered a call, long-polls left out.",
            ["call"],
            buckets=ANSWER_BUCKETS,
            registry=registry,
        )
        self.certificate_expiry = ReadFamily(
            registry,
            GaugeMetricFamily,
            "patio_operator_certificate_expiry_timestamp_seconds",
            "Unix time at which a certificate ends: the webhook's (serving), and that of the CA that signed it (ca).",
            "certificate",
        )
        self.signing_key_created = ReadFamily(
            registry,
            GaugeMetricFamily,
            "patio_operator_signing_key_created_timestamp_seconds",
            "Unix time at which the key was made that calls to sidecars are signed with.",
        )
        self.lease_transitions = ReadFamily(
            registry,
            CounterMetricFamily,
            "patio_operator_lease_transitions_total",
            "How often the Lease went to another replica, as the Lease itself says: the same in all replicas.",
        )
        self.sidecars = ReadFamily(
            registry,
            GaugeMetricFamily,
            "patio_operator_sidecars",
            "Sidecars that the leader follows, by state. rejecting: it answers, but not with the list of its adapters. "
            "unknown: the operator has not asked yet, or cannot.",
            "state",
        )
        self.queues = Queues(registry)
        self.adapters = ObjectGauges(object_gauges.LORA_ADAPTER)
        self.groups = ObjectGauges(object_gauges.ROLE_BASED_GROUP)
        self.profiles = ObjectGauges(object_gauges.PROFILE)
        self.acting = False
        """Whether this replica leads: the leader alone shows objects."""
        without_series = ReadFamily(
            registry,
            GaugeMetricFamily,
            "patio_operator_objects_without_series",
            "Objects that are counted by reason, and have no series of their own since there are too many.",
            "resource",
        )
        without_series.read = lambda: {
            gauges.plural: gauges.without_series if self.acting else 0 for gauges in self.objects
        }
        self._begin_with_zero()

    @property
    def objects(self) -> tuple[ObjectGauges, ...]:
        """Everything that follows objects."""
        return self.adapters, self.groups, self.profiles

    def built(self, version: str) -> None:
        """Take the version of the program."""
        self._build.labels(version).set(1)

    def leads(self, leading: bool) -> None:
        """Take in whether this replica leads."""
        self.acting = leading
        self.leader.set(leading)

    def reviewed(self, webhook: str, outcome: str, reason: str, warnings: int, seconds: float) -> None:
        """Count a review."""
        self._reviews.labels(webhook, outcome, reason).inc()
        self._warnings.labels(webhook).inc(warnings)
        if outcome != "error":
            self._review_seconds.labels(webhook).observe(seconds)

    def requested(self, verb: str, status: int, seconds: float) -> None:
        """Count a request to the API server; the status is 0 when there was no answer."""
        self._api_requests.labels(verb, codes.label(status)).inc()
        if verb != "watch":
            self._api_seconds.labels(verb).observe(seconds)

    def called(self, call: str, status: int, seconds: float) -> None:
        """Count a call to a sidecar; the status is 0 when there was no answer."""
        self._calls.labels(call, codes.label(status)).inc()
        if call in TIMED_CALLS:
            self._call_seconds.labels(call).observe(seconds)

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

    def _begin_with_zero(self) -> None:
        for webhook, outcomes in REASONS.items():
            for outcome, reasons in (*outcomes.items(), ("error", FAULTS)):
                for reason in reasons:
                    self._reviews.labels(webhook, outcome, reason)
            self._warnings.labels(webhook)
            self._review_seconds.labels(webhook)
        for kind in KINDS:
            for outcome in ("success", "error"):
                self.passes.labels(kind, outcome)
            self.pass_seconds.labels(kind)
        for verb, usual in VERBS.items():
            for status in (usual, 0):
                self._api_requests.labels(verb, codes.label(status))
            if verb != "watch":
                self._api_seconds.labels(verb)
        for call in CALLS:
            for status in (200, 0):
                self._calls.labels(call, codes.label(status))
        for call in TIMED_CALLS:
            self._call_seconds.labels(call)

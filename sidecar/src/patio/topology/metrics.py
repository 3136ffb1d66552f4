"""What the sidecar measures of its registrations, in the registry that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from patio.topology.planner import Reason
from patio.written_metrics import Tally
from patio_protocol.topology import RegistrationState, TopologyReport

FAILURES = (Reason.UNREACHABLE, Reason.UNAUTHORIZED, Reason.REJECTED, Reason.ERROR, Reason.MODE, Reason.NO_SERVER)


class TopologyMetrics:
    """Faults by reason; and, read from the report when they are asked for, registrations and leases."""

    def __init__(self, registry: CollectorRegistry, report: Callable[[], TopologyReport]) -> None:
        self._failures = Tally(
            "patio:topology_failures_total",
            "Failed requests to routers.",
            ("reason",),
            registry,
            initial=((str(reason),) for reason in FAILURES),
        )
        registry.register(_Registrations(report))

    def count_failure(self, reason: str) -> None:
        """Count one fault."""
        self._failures.count(reason)


class _Registrations(Collector):
    def __init__(self, report: Callable[[], TopologyReport]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report()
        registered = GaugeMetricFamily(
            "patio:topology_registered",
            "1 if the router lists this pod's worker as healthy.",
            labels=("router",),
        )
        for registration in report.registrations:
            registered.add_metric((registration.router,), float(registration.state is RegistrationState.REGISTERED))
        yield registered
        if report.role == "server":
            leases = GaugeMetricFamily(
                "patio:topology_leases", "Leases that this sidecar keeps, by state.", labels=("state",)
            )
            for state in RegistrationState:
                count = sum(lease.registration.state is state for lease in report.leases)
                leases.add_metric((state.value,), float(count))
            yield leases

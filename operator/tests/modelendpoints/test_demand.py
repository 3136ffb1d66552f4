"""What the gateway's replicas report, added up."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from patio_api.demand_report import DemandReport
from patio_operator.modelendpoints.demand import STALE_AFTER, Demand, demand_of

from .builders import NOW


def report(gateway: str, at: datetime = NOW, **entry: Any) -> DemandReport:
    return DemandReport.model_validate(
        {
            "metadata": {"name": gateway},
            "spec": {"gateway": gateway, "reportedAt": at, "endpoints": [{"endpoint": "team/qwen"} | entry]},
        }
    )


def test_fresh_reports_are_added_up() -> None:
    reports = [report("a", inFlight=2, held=1, lastActivity=NOW), report("b", inFlight=3)]
    assert demand_of("team/qwen", reports, NOW) == Demand(True, 5, 1, NOW)
    assert demand_of("team/other", reports, NOW) == Demand(True, 0, 0, None)


def test_report_that_is_too_old_counts_for_nothing() -> None:
    at = NOW - STALE_AFTER
    assert demand_of("team/qwen", [report("a", at, inFlight=2)], NOW).in_flight == 2
    late = demand_of("team/qwen", [report("a", at - timedelta(seconds=1), inFlight=2)], NOW)
    assert (late.reported, late.in_flight) == (False, 0)


def test_last_activity_of_a_lost_replica_is_remembered() -> None:
    hour_ago = NOW - timedelta(hours=1)
    assert demand_of("team/qwen", [report("a", hour_ago, lastActivity=hour_ago)], NOW).last_activity == hour_ago


def test_times_of_a_clock_that_is_ahead_are_not_believed() -> None:
    soon = NOW + timedelta(minutes=1)
    assert demand_of("team/qwen", [report("a", soon, inFlight=1, lastActivity=soon)], NOW).last_activity == NOW
    assert not demand_of("team/qwen", [report("a", NOW + timedelta(hours=1), inFlight=1)], NOW).reported


def test_nobody_who_reports_is_not_no_demand() -> None:
    assert not demand_of("team/qwen", [], NOW).reported

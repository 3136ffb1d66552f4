"""Demand, added up from several gateways and the queue."""

from __future__ import annotations

from datetime import timedelta

import pytest

from patio_operator.modelendpoints.autoscaler.demand import REPORT_BOUND, REPORT_KEPT, Demand, demand_at
from patio_operator.modelendpoints.autoscaler.observation import DemandReport, Gateway, Observations, QueueReport

from .builders import LONG_AGO, at

NOW = at(0)
SECOND = timedelta(seconds=1)
BOTH = (Gateway("a", LONG_AGO), Gateway("b", LONG_AGO))


def added(
    *reports: DemandReport,
    gateways: tuple[Gateway, ...] | None = BOTH,
    queue: QueueReport | None = None,
    queued: bool = False,
) -> Demand:
    return demand_at(NOW, Observations(1, (), gateways, reports, queue), queued)


def test_reports_of_all_gateways_are_added() -> None:
    demand = added(
        DemandReport("a", NOW, 3, 4, at(-9)), DemandReport("b", NOW, 10, 0, at(-5)), queue=QueueReport(NOW, 6, 1)
    )
    assert (demand.in_flight, demand.held, demand.queued, demand.total) == (13, 4, 7, 24)
    assert (demand.last_request, demand.complete) == (at(-5), True)


@pytest.mark.parametrize(
    ("age", "counted", "missing"),
    [
        (REPORT_BOUND, 5, ()),
        (REPORT_BOUND + SECOND, 5, ("b",)),
        (REPORT_KEPT, 5, ("b",)),
        (REPORT_KEPT + SECOND, 0, ("b",)),
        (-REPORT_BOUND - SECOND, 5, ("b",)),
    ],
)
def test_old_report_counts_for_a_time_and_is_missing(age: timedelta, counted: int, missing: tuple[str, ...]) -> None:
    demand = added(DemandReport("a", NOW), DemandReport("b", NOW - age, 5))
    assert (demand.in_flight, demand.missing, demand.complete) == (counted, missing, not missing)


@pytest.mark.parametrize(("age", "missing"), [(REPORT_BOUND, ()), (REPORT_BOUND + SECOND, ("b",))])
def test_new_gateway_is_not_missed_at_once(age: timedelta, missing: tuple[str, ...]) -> None:
    gateways = (Gateway("a", LONG_AGO), Gateway("b", NOW - age))
    assert added(DemandReport("a", NOW), gateways=gateways).missing == missing


def test_gateway_that_ended_counts_while_its_report_is_fresh() -> None:
    ended = DemandReport("b", NOW - REPORT_BOUND, 5)
    assert added(DemandReport("a", NOW), ended, gateways=BOTH[:1]).total == 5
    older = DemandReport("b", NOW - REPORT_BOUND - SECOND, 5)
    demand = added(DemandReport("a", NOW), older, gateways=BOTH[:1])
    assert (demand.total, demand.complete) == (0, True)


def test_old_reports_count_when_gateways_are_unknown() -> None:
    demand = added(DemandReport("b", NOW - REPORT_BOUND - SECOND, 5), gateways=None)
    assert (demand.total, demand.complete) == (5, False)


def test_last_request_is_not_in_the_future() -> None:
    assert added(DemandReport("a", NOW, last_request=at(50))).last_request == NOW


@pytest.mark.parametrize(
    ("queue", "queued", "missing", "total"),
    [
        (None, False, False, 0),
        (None, True, True, 0),
        (QueueReport(NOW, 5), True, False, 5),
        (QueueReport(NOW - REPORT_BOUND - SECOND, 5), False, True, 5),
        (QueueReport(NOW - REPORT_KEPT - SECOND, 5), True, True, 0),
    ],
)
def test_queue_is_missed_where_there_is_or_was_one(
    queue: QueueReport | None, queued: bool, missing: bool, total: int
) -> None:
    demand = added(DemandReport("a", NOW), DemandReport("b", NOW), queue=queue, queued=queued)
    assert (demand.queue_missing, demand.total) == (missing, total)

"""What a report of the demand says, and when one is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from patio_api.demand_report import MAX_ENDPOINTS
from patio_gateway.demand_reports.report import (
    CHANGE_SECONDS,
    MOST,
    SAME_SECONDS,
    EndpointState,
    Traffic,
    Waiting,
    due_in,
    observe,
    report_of,
)

AT = datetime(2026, 11, 27, 12, tzinfo=UTC)
NOW = 1000.0
NOTHING = Traffic({}, {})


def test_held_and_in_flight_requests_are_added_to_the_state() -> None:
    state = observe({}, NOTHING, Traffic({"a/m": 2}, {}), {"a/n": Waiting(3, 990.0)}, ["a/m", "a/n", "a/o"], NOW)
    assert state == {"a/m": EndpointState(2, 0, NOW), "a/n": EndpointState(0, 3, NOW)}


def test_request_between_two_looks_is_activity() -> None:
    state = observe({}, Traffic({}, {"a/m": 4}), Traffic({}, {"a/m": 5}), {}, ["a/m"], NOW)
    assert state == {"a/m": EndpointState(0, 0, NOW)}
    assert observe(state, Traffic({}, {"a/m": 5}), Traffic({}, {"a/m": 5}), {}, ["a/m"], NOW + 9) == state


def test_what_envoy_counted_before_this_program_is_no_activity() -> None:
    assert observe({}, None, Traffic({}, {"a/m": 5}), {}, ["a/m"], NOW) == {}


def test_last_activity_is_what_the_front_saw_last() -> None:
    assert observe({}, NOTHING, NOTHING, {"a/m": Waiting(0, 990.0)}, ["a/m"], NOW)["a/m"].last_activity == 990.0


def test_in_flight_stays_while_envoy_does_not_answer() -> None:
    state = observe({"a/m": EndpointState(2, 0, 900.0)}, NOTHING, None, {}, ["a/m"], NOW)
    assert state["a/m"].in_flight == 2


def test_endpoint_that_is_deleted_is_forgotten() -> None:
    assert observe({"a/m": EndpointState(1, 1, NOW)}, NOTHING, Traffic({"a/m": 1}, {}), {}, [], NOW) == {}


def test_first_report_is_due_at_once() -> None:
    assert due_in(None, {}, 0.0) == 0


def test_first_request_for_an_endpoint_is_reported_at_once() -> None:
    held = {"a/m": EndpointState(held=1)}
    assert due_in({}, held, 0.0) == 0
    assert due_in({"a/m": EndpointState(last_activity=5.0)}, held, 0.0) == 0
    assert due_in({"b/n": EndpointState(held=7)}, {"b/n": EndpointState(held=7)} | held, 0.0) == 0


def test_other_changes_are_reported_after_a_second() -> None:
    before = {"a/m": EndpointState(held=1)}
    for after in ({"a/m": EndpointState(held=2)}, {"a/m": EndpointState()}, {"a/m": EndpointState(1)}, {}):
        assert due_in(before, after, 0.25) == CHANGE_SECONDS - 0.25
        assert due_in(before, after, CHANGE_SECONDS) == 0


def test_same_demand_is_reported_again_after_five_seconds() -> None:
    state = {"a/m": EndpointState(1, 1, NOW)}
    later = {"a/m": EndpointState(1, 1, NOW + 1)}
    assert due_in(state, later, 1.0) == SAME_SECONDS - 1.0
    assert due_in(state, state, SAME_SECONDS + 1) == 0


def test_report_has_the_clock_of_the_api_server() -> None:
    spec = report_of("gw-0", {"a/m": EndpointState(1, 2, NOW - 30), "a/n": EndpointState(1)}, NOW, AT)
    assert (spec.gateway, spec.reported_at) == ("gw-0", AT)
    assert [(each.endpoint, each.in_flight, each.held) for each in spec.endpoints] == [("a/m", 1, 2), ("a/n", 1, 0)]
    assert [each.last_activity for each in spec.endpoints] == [AT - timedelta(seconds=30), None]


def test_report_past_its_limit_lists_the_most_demand() -> None:
    state = {f"a/m{number}": EndpointState(held=number) for number in range(MAX_ENDPOINTS + 10)}
    entries = report_of("gw-0", state, NOW, AT).endpoints
    assert len(entries) == MAX_ENDPOINTS
    assert (entries[0].held, entries[-1].held) == (MAX_ENDPOINTS + 9, 10)


def test_what_a_report_cannot_hold_is_bounded_or_left_out() -> None:
    spec = report_of("gw-0", {"a/m": EndpointState(2**40, 2**40), "a/b.c": EndpointState(1)}, NOW, AT)
    assert [(each.endpoint, each.in_flight, each.held) for each in spec.endpoints] == [("a/m", MOST, MOST)]

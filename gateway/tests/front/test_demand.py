"""The demand, as control reads it."""

from __future__ import annotations

from patio_gateway.front.demand import Demand, as_json, demand
from patio_gateway.front.queue.queues import Held


def test_demand_has_endpoints_that_wait_or_were_asked_for() -> None:
    found = demand({"a/m": Held(3, 90.0)}, {"a/m": 1000.0, "b/n": 900.0}, now=100.5)
    assert found == (Demand("a/m", 3, 10.5, 1000.0), Demand("b/n", 0, 0.0, 900.0))


def test_demand_is_json_in_the_words_of_the_api() -> None:
    assert as_json(7, (Demand("a/m", 3, 10.5004, 1000.0),)) == {
        "version": 7,
        "endpoints": [{"endpoint": "a/m", "held": 3, "oldestWaitSeconds": 10.5, "lastActivity": 1000.0}],
    }


def test_no_demand_is_empty() -> None:
    assert demand({}, {}, now=0.0) == ()

"""What the page shows of models."""

from __future__ import annotations

import dataclasses

import pytest

from patio_gateway.front.demand import Demand
from patio_gateway.front.overview import overview, state
from patio_gateway.snapshot import Decision, Model, Start, StartPhase, Worker

MODEL = Model("a/m", ("m", "chat"), adapters=("sql", "law"), start=Start(StartPhase.DOWNLOADING, 34, "From the hub."))
WORKER = Worker("m-0", ("127.0.0.1", 1), frozenset({"sql", "undeclared"}))


def test_sleeping_model_shows_its_start_and_queue() -> None:
    body = overview([MODEL], [Demand("a/m", 3, 12.34, 1000.0)], "team-a")
    (model,) = body["models"]
    assert (model["state"], model["percent"], model["message"]) == ("Downloading", 34, "From the hub.")
    assert model["queue"] == {"length": 3, "max": 1000, "oldestWaitSeconds": 12.3}
    assert (model["lastActivity"], model["decision"], model["aliases"]) == (1000.0, None, ["chat"])


def test_ready_model_shows_workers_and_where_adapters_are() -> None:
    decision = Decision(900.0, 0, 1, "A request waits.")
    body = overview([dataclasses.replace(MODEL, workers=(WORKER,), last_decision=decision)], [], None)
    (model,) = body["models"]
    assert (model["state"], model["percent"], model["message"]) == ("Ready", None, "")
    assert model["workers"] == [{"name": "m-0", "adapters": 2}]
    assert model["adapters"] == [{"name": "law", "workers": 0}, {"name": "sql", "workers": 1}]
    assert model["decision"] == {"at": 900.0, "from": 0, "to": 1, "reason": "A request waits."}


@pytest.mark.parametrize(
    ("can_wake", "phase", "word"),
    [
        (False, StartPhase.ASLEEP, "Disabled"),
        (True, StartPhase.ASLEEP, "Asleep"),
        (False, StartPhase.LOADING, "Loading"),
    ],
)
def test_state_without_workers(can_wake: bool, phase: StartPhase, word: str) -> None:
    assert state(Model("a/m", ("m",), can_wake=can_wake, start=Start(phase))) == word

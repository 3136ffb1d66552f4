"""Cold starts and their phases."""

from __future__ import annotations

from patio_gateway.front.starts import Started, Starts, moved
from patio_gateway.snapshot import Model, Start, StartPhase, Worker

ASLEEP, LOADING = StartPhase.ASLEEP, StartPhase.LOADING
WAITING = frozenset({"a/m"})


def models(phase: StartPhase = ASLEEP, *workers: Worker) -> dict[str, Model]:
    return {"a/m": Model("a/m", ("m",), start=Start(phase), workers=workers)}


WORKER = Worker("m-0", ("127.0.0.1", 1))


def began() -> Starts:
    starts, ended = moved({}, models(), WAITING, 10.0)
    assert ended == ()
    return starts


def test_cold_start_counts_the_seconds_of_its_phases() -> None:
    starts, _ = moved(began(), models(LOADING), WAITING, 12.0)
    starts, _ = moved(starts, models(LOADING), WAITING, 13.0)
    starts, ended = moved(starts, models(LOADING, WORKER), WAITING, 17.0)
    assert ended == (Started("a/m", True, 7.0, {ASLEEP: 2.0, LOADING: 5.0}),)
    assert starts == {}


def test_phase_that_comes_again_counts_once_more() -> None:
    starts, _ = moved(began(), models(LOADING), WAITING, 11.0)
    starts, _ = moved(starts, models(ASLEEP), WAITING, 12.0)
    _, ended = moved(starts, models(ASLEEP, WORKER), WAITING, 15.0)
    assert ended[0].phases == {ASLEEP: 4.0, LOADING: 1.0}


def test_start_that_nobody_waits_for_any_more_is_abandoned() -> None:
    starts, ended = moved(began(), models(), frozenset(), 11.0)
    assert starts == {}
    assert [each.ready for each in ended] == [False]


def test_wait_for_an_adapter_of_a_ready_model_is_no_cold_start() -> None:
    assert moved({}, models(ASLEEP, WORKER), WAITING, 1.0) == ({}, ())


def test_start_of_a_deleted_model_is_forgotten() -> None:
    assert moved(began(), {}, frozenset(), 11.0) == ({}, ())

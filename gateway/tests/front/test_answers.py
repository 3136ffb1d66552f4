"""The words of the front's errors."""

from __future__ import annotations

import pytest

from patio_gateway.front import answers
from patio_gateway.snapshot import Model, Start, StartPhase, Worker


def starting(start: Start) -> Model:
    return Model("a/m", ("m",), start=start)


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (Start(), "State: Asleep."),
        (Start(StartPhase.DOWNLOADING, 34), "State: Downloading 34 %."),
        (Start(StartPhase.DOWNLOADING), "State: Downloading."),
        (Start(StartPhase.LOADING, 100), "State: Loading."),
        (Start(StartPhase.FAILING, message="Back-off pulling image"), "State: Failing. Back-off pulling image."),
        (Start(StartPhase.SCHEDULING, message="0/3 nodes have a GPU."), "State: Scheduling. 0/3 nodes have a GPU."),
    ],
)
def test_state_names_the_phase_and_its_progress(start: Start, text: str) -> None:
    assert answers.state(starting(start)) == text


def test_state_of_a_model_with_workers_is_ready() -> None:
    model = Model("a/m", ("m",), workers=(Worker("m-0", ("127.0.0.1", 1)),), start=Start(StartPhase.LOADING))
    assert answers.state(model) == "State: Ready."


@pytest.mark.parametrize("phase", StartPhase)
def test_each_state_has_a_time_to_ask_again(phase: StartPhase) -> None:
    answer = answers.too_late(starting(Start(phase)), None, 300.0)
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 10


def test_long_name_of_a_client_is_cut() -> None:
    assert len(answers.unknown_model("x" * 100_000).message) < 500

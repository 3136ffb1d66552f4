"""Which signal is next, and that every stop ends."""

from __future__ import annotations

import signal

from hypothesis import given
from hypothesis import strategies as st

from inference_server.stopping import StopPlan, next_step

PLANS = st.builds(
    StopPlan,
    leader_seconds=st.floats(0, 100),
    group_seconds=st.floats(0, 100),
    kill_seconds=st.floats(0.1, 100),
)


def names(plan: StopPlan, *, leader_until: str, others_until: str) -> list[str]:
    """Return the steps of a stop in which leader and others end with a certain step."""
    last: str | None = None
    taken: list[str] = []
    leader = others = True
    while True:
        step = next_step(plan, last, leader_alive=leader, others_alive=others)
        taken.append(step.name)
        if step.name in ("done", "give-up"):
            return taken
        last = step.name
        leader = leader and step.name != leader_until
        others = others and step.name != others_until


def test_leader_is_signalled_first_and_alone() -> None:
    assert names(StopPlan(), leader_until="leader", others_until="leader") == ["leader", "done"]


def test_what_the_leader_left_gets_sigterm_then_sigkill() -> None:
    assert names(StopPlan(), leader_until="leader", others_until="group") == ["leader", "group", "done"]
    assert names(StopPlan(), leader_until="leader", others_until="kill") == ["leader", "group", "kill", "done"]


def test_survivor_of_sigkill_ends_the_stop_too() -> None:
    assert names(StopPlan(), leader_until="kill", others_until="never") == ["leader", "group", "kill", "give-up"]


def test_no_patience_is_sigkill_at_once() -> None:
    plan = StopPlan(leader_seconds=0)
    assert names(plan, leader_until="kill", others_until="kill") == ["kill", "done"]
    assert next_step(plan, None, leader_alive=True, others_alive=True).signal == signal.SIGKILL


def test_server_that_ended_by_itself_needs_no_signal() -> None:
    assert names(StopPlan(), leader_until="never", others_until="never")[-1] == "give-up"
    assert next_step(StopPlan(), None, leader_alive=False, others_alive=False).name == "done"


@given(
    PLANS, st.sampled_from(["leader", "group", "kill", "never"]), st.sampled_from(["leader", "group", "kill", "never"])
)
def test_every_stop_ends_in_at_most_three_signals(plan: StopPlan, leader_until: str, others_until: str) -> None:
    taken = names(plan, leader_until=leader_until, others_until=others_until)
    assert len(taken) <= 4
    order = ["leader", "group", "kill"]
    assert taken[:-1] == sorted(taken[:-1], key=order.index)

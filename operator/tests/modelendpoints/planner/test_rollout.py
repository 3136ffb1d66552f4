"""Laws of a roll: it never costs an answering worker, it ends, and it stops where a worker fails to start."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from patio_operator.modelendpoints.planner import rollout
from patio_operator.modelendpoints.planner.snapshot import PodState
from patio_operator.modelendpoints.planner.workers import GroupState, Worker

from ..builders import endpoint, group

STATES = st.sampled_from([PodState.READY, PodState.LOADING, PodState.FAILING])


def state_of(name: str, states: list[PodState]) -> GroupState:
    seen = replace(group(endpoint(), len(states)), name=name, revision=name)
    return GroupState(seen, tuple(Worker(index, state, None) for index, state in enumerate(states)), len(states))


def resized(state: GroupState, number: int, new: PodState) -> GroupState:
    """A group after a resize: the highest numbers go, and new ones are in a state."""
    states = [worker.state for worker in state.workers[:number]]
    return state_of(state.group.name, states + [new] * (number - len(states)))


groups = st.lists(STATES, max_size=6)


@given(st.integers(1, 6), st.none() | groups, st.lists(groups, max_size=3))
def test_no_answering_worker_goes_that_is_needed(
    desired: int, current: list[PodState] | None, old: list[list[PodState]]
) -> None:
    here = None if current is None else state_of("new", current)
    olds = [state_of(f"old-{place}", states) for place, states in enumerate(old)]
    wanted = rollout.targets(desired, here, olds)
    before = sum(state.ready for state in olds) + (here.ready if here else 0)
    left = [resized(state, number, PodState.LOADING) for state, number in zip(olds, wanted.old, strict=True)]
    if here is not None:
        left.append(resized(here, wanted.current, PodState.LOADING))
    assert sum(state.ready for state in left) >= min(before, desired) - _shed(here, desired)


def _shed(current: GroupState | None, desired: int) -> int:
    """Workers that answer above the number that is wanted: they go, whatever their revision."""
    return 0 if current is None else sum(worker.ready for worker in current.workers[desired:])


@given(st.integers(1, 6), st.lists(groups, min_size=1, max_size=3))
def test_roll_ends_when_every_new_worker_comes_up(desired: int, old: list[list[PodState]]) -> None:
    current: GroupState | None = None
    olds = [state_of(f"old-{place}", states) for place, states in enumerate(old)]
    for _ in range(4 * desired + 4):
        wanted = rollout.targets(desired, current, olds)
        olds = [resized(state, number, PodState.LOADING) for state, number in zip(olds, wanted.old, strict=True)]
        current = resized(current or state_of("new", []), wanted.current, PodState.READY)
        extra = max(1, desired // rollout.SURGE_SHARE)
        idle = sum(state is not PodState.READY for states in old for state in states)
        most = max(desired + extra, sum(map(len, old)) + 1) + idle
        assert len(current.workers) + sum(len(state.workers) for state in olds) <= most
    assert (len(current.workers), sum(len(state.workers) for state in olds)) == (desired, 0)


def test_failing_worker_keeps_every_old_one() -> None:
    current = state_of("new", [PodState.READY, PodState.FAILING])
    wanted = rollout.targets(4, current, [state_of("old", [PodState.READY] * 3)])
    assert (wanted.current, wanted.old) == (2, (3,))
    assert wanted.stopped_by is not None
    assert wanted.stopped_by.index == 1


def test_worker_that_answers_is_not_lost_for_one_above_it() -> None:
    current = state_of("new", [PodState.READY])
    old = state_of("old", [PodState.READY, PodState.LOADING, PodState.READY])
    assert rollout.targets(3, current, [old]).old == (3,)


def test_nothing_wanted_ends_every_revision() -> None:
    wanted = rollout.targets(0, state_of("new", [PodState.FAILING]), [state_of("old", [PodState.READY])])
    assert (wanted.current, wanted.old, wanted.stopped_by) == (0, (0,), None)

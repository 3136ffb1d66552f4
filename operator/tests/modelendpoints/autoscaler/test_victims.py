"""Which workers go."""

from __future__ import annotations

from datetime import timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from patio_operator.modelendpoints.autoscaler.observation import Worker, WorkerState
from patio_operator.modelendpoints.autoscaler.victims import choose_drains, choose_victims

from .builders import LONG_AGO, SPEC, at, worker

NOW = at(0)
GRACE = SPEC.loading_grace
FAILED, LOADING, READY, DRAINING = WorkerState.FAILED, WorkerState.LOADING, WorkerState.READY, WorkerState.DRAINING


def names(workers: tuple[Worker, ...]) -> list[str]:
    return [each.name for each in workers]


def victims(count: int, *workers: Worker) -> list[str]:
    return names(choose_victims(workers, count, NOW, GRACE))


def test_order_is_failed_drained_idle_then_busy() -> None:
    workers = (
        worker("busy", READY, 3),
        worker("drains", DRAINING, 3),
        worker("idle", READY, 0),
        worker("drained", DRAINING, 0),
        worker("failed", FAILED),
        worker("overdue", LOADING, None, NOW - GRACE),
    )
    assert victims(6, *workers) == ["failed", "overdue", "drained", "idle", "drains", "busy"]


def test_loading_worker_is_no_victim_within_its_grace() -> None:
    loading = worker("loading", LOADING, None, NOW - GRACE + timedelta(seconds=1))
    assert victims(2, loading, worker("busy", READY, 9)) == ["busy"]


def test_worker_with_the_fewest_requests_goes_first() -> None:
    assert victims(2, worker("a", READY, 5), worker("b", READY, 2), worker("c", READY, None)) == ["b", "a"]


def test_adapters_that_no_other_worker_has_count() -> None:
    workers = (
        worker("a", READY, 0, LONG_AGO, "sql", "chat"),
        worker("b", READY, 0, LONG_AGO, "chat"),
        worker("c", READY, 0, LONG_AGO, "chat", "law", "tax"),
    )
    assert victims(1, *workers) == ["b"]


def test_last_worker_with_an_adapter_goes_after_others() -> None:
    """When `a` goes, `b` is the last that has `chat`; `c` has nothing."""
    workers = (
        worker("a", READY, 0, at(-10), "chat"),
        worker("b", READY, 0, at(-20), "chat"),
        worker("c", READY, 0, at(-30)),
    )
    assert victims(2, *workers) == ["a", "c"]


def test_youngest_goes_first_and_names_decide_at_last() -> None:
    assert victims(3, worker("b", READY), worker("a", READY), worker("c", READY, 0, at(-5))) == ["c", "a", "b"]


def test_worker_that_drains_goes_on_draining() -> None:
    """Though another is idle at this moment: it would get a request while the draining one already gets none."""
    workers = (worker("drains", DRAINING, 2), worker("idle", READY, 0), worker("busy", READY, 7))
    assert names(choose_drains(workers, 1, NOW, GRACE)) == ["drains"]
    assert names(choose_drains(workers, 2, NOW, GRACE)) == ["drains", "idle"]
    assert choose_drains(workers, 0, NOW, GRACE) == ()


def test_workers_without_requests_to_get_do_not_drain() -> None:
    workers = (worker("loading", LOADING, None, NOW), worker("failed", FAILED), worker("ready", READY, 1))
    assert names(choose_drains(workers, 3, NOW, GRACE)) == ["ready"]


fleets = st.lists(
    st.tuples(
        st.sampled_from(WorkerState),
        st.none() | st.integers(0, 3),
        st.integers(0, 4000),
        st.frozensets(st.sampled_from("abc")),
    ),
    max_size=12,
).map(
    lambda rows: tuple(
        worker(f"w-{index}", state, in_flight, at(-age), *adapters)
        for index, (state, in_flight, age, adapters) in enumerate(rows)
    )
)


@given(fleets, st.integers(-1, 13))
def test_no_busy_victim_while_an_idle_worker_exists(workers: tuple[Worker, ...], count: int) -> None:
    chosen = choose_victims(workers, count, NOW, GRACE)
    removable = [each for each in workers if not each.loads(NOW, GRACE)]
    assert len(chosen) == len(set(names(chosen))) == max(0, min(count, len(removable)))
    assert not any(each.loads(NOW, GRACE) for each in chosen)
    spared = [each for each in removable if each not in chosen and each.state in (READY, DRAINING)]
    if any(each.in_flight != 0 for each in chosen if each.state in (READY, DRAINING)):
        assert not any(each.in_flight == 0 for each in spared)


@given(fleets, st.integers(0, 12), st.randoms(use_true_random=False))
def test_order_of_the_list_does_not_matter(workers: tuple[Worker, ...], count: int, chance: Random) -> None:
    shuffled = list(workers)
    chance.shuffle(shuffled)
    assert choose_victims(workers, count, NOW, GRACE) == choose_victims(shuffled, count, NOW, GRACE)
    assert choose_drains(workers, count, NOW, GRACE) == choose_drains(shuffled, count, NOW, GRACE)


@given(fleets, st.integers(0, 12))
def test_fewer_victims_are_the_first_of_more(workers: tuple[Worker, ...], count: int) -> None:
    assert choose_victims(workers, count, NOW, GRACE) == choose_victims(workers, 12, NOW, GRACE)[:count]

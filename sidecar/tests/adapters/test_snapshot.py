"""The snapshot of a pod's adapters: what its transitions keep and forget."""

from __future__ import annotations

from dataclasses import replace

from patio.adapters.desired import Desired, LoadedWeights, Slot
from patio.adapters.fetching import Origin
from patio.adapters.plan import Fetch, Load, Unload
from patio.adapters.progress import Progress
from patio.adapters.snapshot import (
    AdapterSnapshot,
    State,
    is_outdated,
    paths_in_use,
    pruned,
    with_asked,
    with_credentials,
    with_ended,
    with_progress,
    with_started,
)
from patio_testing.sidecar.builders import desired, engine, keyed, wanted

A, STAGED = ("a", Slot.ACTIVE), ("a", Slot.STAGED)
FETCHED = wanted("a", "", origin=Origin("s3://bucket/a"), revision="1")


def test_ended_action_leaves_nothing_of_itself() -> None:
    before = AdapterSnapshot(desired(wanted("a")), engine())
    running = with_asked(with_started(before, Load(wanted("a"), "why")), A, 1.0)
    assert (running.running.keys(), running.asked_at) == ({A}, {A: 1.0})
    assert with_ended(running, A) == before
    assert with_ended(before, A) is before


def test_credentials_of_one_slot_do_not_touch_the_other() -> None:
    snapshot = with_credentials(AdapterSnapshot(Desired(), credentials={STAGED: {"k": "1"}}), A, {"k": "2"})
    assert snapshot.credentials == {A: {"k": "2"}, STAGED: {"k": "1"}}
    assert with_credentials(snapshot, A, {}).credentials == {STAGED: {"k": "1"}}
    assert "'2'" not in repr(snapshot), "a snapshot may be logged"


def test_progress_of_what_is_staged_outlives_the_engine() -> None:
    progress = Progress(order=0, life=0, failures=3, weights=("", "1"))
    snapshot = AdapterSnapshot(Desired({STAGED: FETCHED}), life=7, progress={STAGED: progress, A: progress})
    assert snapshot.progress_of(FETCHED, Slot.STAGED).failures == 3
    assert snapshot.progress_of(FETCHED).failures == 0


def test_pruning_keeps_what_is_desired_leaving_or_running() -> None:
    names = ("desired", "leaving", "unloaded", "trial", "running", "gone")
    before = AdapterSnapshot(
        replace(desired(wanted("desired")), leaving=frozenset({"leaving"}), unloaded={"unloaded": "/u"}),
        replace(engine(), trials=frozenset({"trial"})),
        progress=keyed(dict.fromkeys(names, Progress())),
        running=keyed({"running": Unload("running", "")}),
        credentials={**keyed({"desired": {"k": "1"}, "gone": {"k": "1"}}), ("desired", Slot.STAGED): {"k": "1"}},
    )
    after = pruned(before)
    assert {name for name, _ in after.progress} == {*names} - {"gone"}
    assert after.credentials.keys() == {("desired", Slot.ACTIVE)}
    assert pruned(after) is after


def test_fetch_is_outdated_once_other_files_are_desired() -> None:
    fetch = Fetch(FETCHED, "why")
    assert not is_outdated(AdapterSnapshot(Desired({A: replace(FETCHED, path="/there")})), fetch)
    assert is_outdated(AdapterSnapshot(Desired({A: replace(FETCHED, revision="2")})), fetch)
    assert is_outdated(AdapterSnapshot(Desired({STAGED: FETCHED})), fetch), "the other slot is another order"
    assert not is_outdated(AdapterSnapshot(Desired()), Load(FETCHED, "why"))


def test_paths_in_use_are_listed_or_of_running_actions() -> None:
    spec = wanted("b", "/new")
    spec = replace(spec, held=LoadedWeights("/old", None))
    snapshot = AdapterSnapshot(
        desired(), engine({"a": "/a"}), running=keyed({"b": Load(spec, ""), "c": Unload("c", "")})
    )
    assert paths_in_use(snapshot) == {"/a", "/new", "/old"}


def test_state_holds_what_a_transition_returns() -> None:
    state = State(AdapterSnapshot(desired()))
    state.apply(with_progress, A, Progress(failures=1))
    assert state.snapshot.progress[A].failures == 1
    state.apply(with_progress, A, None)
    assert state.snapshot == AdapterSnapshot(desired())

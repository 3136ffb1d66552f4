"""Plans: what is done for one look at the engine, and that doing it leads to an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.adapters.desired import (
    MOST_UNLOADED,
    AdapterSpec,
    Desired,
    LoadedWeights,
    Slot,
    returned,
    with_loaded,
    with_removed,
    with_returned,
    with_unloaded,
)
from patio.adapters.explanations import SLOW
from patio.adapters.observation import lost, recovered, removed
from patio.adapters.plan import Fetch, Load, Plan, Reload, Restore, Unload
from patio.adapters.planner import plan, readiness_blockers, reports_of
from patio.adapters.progress import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PATIENCE,
    SLOW_RETRY,
    Progress,
    after_call,
    after_loss,
    after_rejection,
    after_restore,
    after_success,
    current,
)
from patio.adapters.snapshot import AdapterSnapshot, holds
from patio.engine.base import Capacity, EngineReason, EngineView, PermanentError, RetryableError, trial_name
from patio.engine.http import NotListeningError, down
from patio.rejection import Rejection
from patio_protocol.adapters import AdapterReport, AdapterState
from patio_testing.sidecar.builders import active, desired, engine, keyed, wanted

A = ("a", Slot.ACTIVE)
REFUSED = Rejection(EngineReason.ADAPTER_REJECTED, "rank 32 is greater than 16", retryable=False)
BUSY = Rejection(EngineReason.ENGINE_ERROR, "try later", retryable=True)


def only(found: Plan) -> AdapterReport:
    (report,) = found.reports
    return report


def test_wanted_adapter_is_loaded() -> None:
    found = plan(AdapterSnapshot(desired(wanted("a")), engine()))
    assert found.actions == (Load(wanted("a"), "The adapter is desired, and the engine does not list it."),)
    assert only(found).state is AdapterState.PENDING


def test_loaded_adapter_is_left_alone() -> None:
    found = plan(AdapterSnapshot(desired(wanted("a")), engine({"a": "/adapters/x"})))
    assert found.actions == ()
    assert only(found).state is AdapterState.LOADED


def test_another_path_under_the_name_is_replaced() -> None:
    (action,) = plan(AdapterSnapshot(desired(wanted("a", "/new")), engine({"a": "/old"}))).actions
    assert isinstance(action, Reload)
    assert "/old" in action.reason


@pytest.mark.parametrize(
    ("revision", "held", "reloads"), [("2", "1", True), ("2", None, True), ("2", "2", False), (None, "1", False)]
)
def test_revision_not_seen_accepted_is_loaded_again(revision: str | None, held: str | None, reloads: bool) -> None:
    one = wanted("a", revision=revision, held=held)
    found = plan(AdapterSnapshot(desired(one), engine({"a": "/adapters/x"})))
    assert bool(found.actions) is reloads


def test_nothing_is_done_while_the_engine_is_down() -> None:
    view = down(NotListeningError("http://localhost:8000"))
    found = plan(AdapterSnapshot(desired(wanted("a")), view))
    assert found.actions == ()
    assert only(found).reason == "EngineNotReady"
    assert "http://localhost:8000" in only(found).message


def test_list_without_its_key_fails_everything_at_once() -> None:
    fault = PermanentError(EngineReason.UNAUTHORIZED, "set ENGINE_API_KEY")
    found = plan(AdapterSnapshot(desired(wanted("a")), EngineView(ready=True, adapters=None, error=fault)))
    assert found.actions == ()
    assert (only(found).state, only(found).reason) == (AdapterState.FAILED, "EngineUnauthorized")
    passing = RetryableError(EngineReason.ENGINE_ERROR, "500")
    found = plan(AdapterSnapshot(desired(wanted("a")), EngineView(ready=True, adapters=None, error=passing)))
    assert only(found).state is AdapterState.PENDING


def test_engines_own_adapter_is_reported_and_left_alone() -> None:
    found = plan(AdapterSnapshot(Desired(), engine({"b": "/b"})))
    assert found.actions == ()
    assert (only(found).reason, only(found).owner, only(found).lora_path) == ("Unmanaged", None, "/b")


def test_name_on_its_way_out_is_unloaded_and_then_gone() -> None:
    leaving = desired(leaving=frozenset({"a"}))
    assert plan(AdapterSnapshot(leaving, engine({"a": "/a"}))).actions == (
        Unload("a", "The adapter is no longer desired."),
    )
    assert removed(AdapterSnapshot(leaving, engine({"a": "/a"}))) == frozenset()
    assert removed(AdapterSnapshot(leaving, engine())) == {"a"}


def test_closed_port_holds_no_adapter_paused_engine_may() -> None:
    leaving = desired(leaving=frozenset({"a"}))
    assert removed(AdapterSnapshot(leaving, down(NotListeningError("x")))) == {"a"}
    assert removed(AdapterSnapshot(leaving, down(RetryableError(EngineReason.ENGINE_ERROR, "paused")))) == frozenset()


def test_name_that_is_being_loaded_is_not_yet_gone() -> None:
    leaving = desired(leaving=frozenset({"a"}))
    assert removed(AdapterSnapshot(leaving, engine(), running=keyed({"a": Load(wanted("a"), "")}))) == frozenset()


def failed(one: AdapterSpec, fault: Rejection, times: int = 1) -> AdapterSnapshot:
    progress = current(None, one, 1)
    for _ in range(times):
        progress = after_rejection(after_call(progress), fault, 0.0, 0.0)
    return AdapterSnapshot(desired(one), engine(), life=1, progress=keyed({one.name: progress}))


def test_rejection_fails_with_engine_message_and_waits_long() -> None:
    snapshot = replace(failed(wanted("a"), REFUSED), now=SLOW_RETRY - 1)
    found = plan(snapshot)
    assert found.actions == ()
    assert found.requeue_at == SLOW_RETRY
    assert (only(found).state, only(found).retryable, only(found).attempts) == (AdapterState.FAILED, False, 1)
    assert only(found).message == REFUSED.message
    again = plan(replace(snapshot, now=SLOW_RETRY))
    assert isinstance(again.actions[0], Load)
    assert only(again).state is AdapterState.FAILED


def test_retry_of_what_failed_says_failed_until_it_is_over() -> None:
    one = wanted("a")
    snapshot = replace(failed(one, REFUSED), running=keyed({"a": Load(one, "again")}))
    assert only(plan(snapshot)).state is AdapterState.FAILED


@pytest.mark.parametrize("why", ["order", "life", "revision", "files"])
def test_rejection_is_retried_at_once_when_something_changed(why: str) -> None:
    snapshot = failed(wanted("a"), REFUSED)
    if why == "order":
        snapshot = replace(snapshot, desired=desired(wanted("a", order=1)))
    elif why == "life":
        snapshot = replace(snapshot, life=2)
    elif why == "revision":
        snapshot = replace(snapshot, desired=desired(wanted("a", order=1, revision="2")))
    else:
        snapshot = replace(snapshot, changed_files=frozenset({"a"}))
    assert len(plan(snapshot).actions) == 1


def test_fault_that_may_pass_is_tried_with_growing_pauses() -> None:
    pauses = []
    progress = current(None, wanted("a"), 1)
    for _ in range(10):
        progress = after_rejection(progress, BUSY, 0.0, 0.0)
        pauses.append(progress.not_before)
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert after_rejection(progress, BUSY, 0.0, 1.0).not_before == pytest.approx(LONGEST_PAUSE * 1.3)


def test_lasting_transient_rejection_does_not_hold_pod_back() -> None:
    one = wanted("a", required=True)
    patient, impatient = failed(one, BUSY, PATIENCE - 1), failed(one, BUSY, PATIENCE)
    assert readiness_blockers(patient, plan(patient).reports)
    assert not readiness_blockers(impatient, plan(impatient).reports)
    assert only(plan(impatient)).retryable


def test_call_count_outlives_orders_and_engines_not_revisions() -> None:
    progress = after_call(current(None, wanted("a"), 1))
    assert current(progress, wanted("a", order=5), 2).calls == 1
    assert current(progress, wanted("a", order=5, revision="2"), 2).calls == 0


def test_vanishing_adapter_is_loaded_at_once_then_ever_later() -> None:
    progress = after_loss(Progress(), 100.0, 0.0)
    assert progress.not_before == 100.0
    pauses = []
    for _ in range(12):
        progress = after_loss(after_success(progress, 100.0), 100.0, 0.0)
        pauses.append(progress.not_before - 100.0)
    assert pauses == sorted(pauses)
    assert pauses[0] >= 1
    assert pauses[-1] == SLOW_RETRY
    assert after_loss(after_success(progress, 100.0), 1000.0, 0.0).not_before == 1000.0


def test_only_what_was_there_and_is_not_being_changed_is_lost() -> None:
    snapshot = AdapterSnapshot(
        desired(wanted("a"), wanted("b"), wanted("c")), engine({"a": "/adapters/x", "b": "/adapters/x"})
    )
    snapshot = replace(snapshot, running=keyed({"b": Reload(wanted("b"), "")}))
    assert lost(snapshot, engine()) == {"a"}
    assert lost(snapshot, down(NotListeningError("x"))) == frozenset()


@pytest.mark.parametrize(
    ("one", "listed", "waits"),
    [
        (wanted("a"), {}, False),
        (wanted("a", required=True), {}, True),
        (wanted("a", served=True), {}, True),
        (wanted("a", required=True), {"a": "/adapters/x"}, False),
        (wanted("a", required=True), {"a": "/old"}, True),
        (wanted("a", "/new", served=True), {"a": "/old"}, False),
    ],
    ids=["asked for later", "required", "served before", "loaded", "required, other weights", "swapped while serving"],
)
def test_pod_waits_for_required_and_for_served_adapters(one: AdapterSpec, listed: dict[str, str], waits: bool) -> None:
    snapshot = AdapterSnapshot(desired(one), engine(listed))
    assert bool(readiness_blockers(snapshot, plan(snapshot).reports)) is waits


def test_swapped_adapter_does_not_hold_pod_back() -> None:
    one = wanted("a", "/new", served=True)
    swapped = AdapterSnapshot(desired(one), engine(), running=keyed({"a": Reload(one, "why")}))
    assert not readiness_blockers(swapped, plan(swapped).reports)
    loaded_anew = AdapterSnapshot(desired(one), engine(), running=keyed({"a": Load(one, "why")}))
    assert readiness_blockers(loaded_anew, plan(loaded_anew).reports)


def test_permanently_failed_adapter_does_not_hold_model_back() -> None:
    snapshot = failed(wanted("a", required=True), REFUSED)
    assert not readiness_blockers(snapshot, plan(snapshot).reports)


def over(old: str) -> AdapterSpec:
    """Return new weights that are wanted where others were held."""
    return AdapterSpec("a", "/new", revision="2", served=True, held=LoadedWeights(old, "1"))


def failed_over(old: str = "/old") -> AdapterSnapshot:
    """Return a pod whose engine lost the old weights and refused the wanted ones."""
    return failed(over(old), REFUSED)


def test_previous_weights_are_restored_after_a_rejection() -> None:
    snapshot = failed_over()
    (action,) = plan(snapshot).actions
    assert isinstance(action, Restore)
    assert "/old" in action.reason
    assert (only(plan(snapshot)).state, only(plan(snapshot)).message) == (AdapterState.FAILED, REFUSED.message)
    busy = replace(snapshot, running=keyed({"a": action}))
    assert only(plan(busy)).state is AdapterState.FAILED
    back = replace(snapshot, view=engine({"a": "/old"}))
    assert plan(back).actions == ()
    assert (only(plan(back)).held_revision, only(plan(back)).revision) == ("1", "2")
    later = plan(replace(back, now=SLOW_RETRY)).actions
    assert isinstance(later[0], Reload), "the wanted ones are tried again as if nothing had happened"


def test_weights_are_restored_once_per_failure() -> None:
    snapshot = failed_over()
    tried = replace(snapshot, progress={A: after_restore(snapshot.progress[A])})
    assert plan(tried).actions == ()
    again = replace(tried, progress={A: after_rejection(tried.progress[A], REFUSED, 0.0, 0.0)})
    assert isinstance(plan(again).actions[0], Restore)


@pytest.mark.parametrize(
    "snapshot",
    [
        failed_over("/new"),
        failed_over("/new/"),
        failed(replace(over("/old"), held=None), REFUSED),
        failed(over("/old"), Rejection(EngineReason.EVICTED, "no room", retryable=False)),
    ],
    ids=["the same folder", "the same folder, written otherwise", "nothing held before", "evicted"],
)
def test_what_can_not_be_restored_or_must_not_is_left(snapshot: AdapterSnapshot) -> None:
    assert plan(snapshot).actions == ()


def test_trial_is_taken_away_unless_a_reload_is_at_it() -> None:
    one = wanted("a", "/new")
    trial = trial_name("a", "/new")
    view = replace(engine({"a": "/old"}), trials=frozenset({trial}))
    busy = AdapterSnapshot(desired(one), view, running=keyed({"a": Reload(one, "why")}))
    assert plan(busy).actions == ()
    over = AdapterSnapshot(desired(wanted("a", "/old")), view)
    (action,) = plan(over).actions
    assert isinstance(action, Unload)
    assert action.name == trial
    assert [report.lora_name for report in plan(over).reports] == ["a"]
    assert plan(replace(over, running=keyed({trial: action}))).actions == ()
    refused = replace(over, progress=keyed({trial: after_rejection(Progress(), BUSY, 0.0, 0.0)}))
    assert (plan(refused).actions, plan(refused).requeue_at) == ((), FIRST_PAUSE)


@pytest.mark.parametrize(
    ("listed", "held", "tells"),
    [("/adapters/x", "1", "1"), ("/adapters/x/", "1", "1"), ("/other", "1", None), (None, "1", None)],
)
def test_held_revision_is_that_of_the_listed_path(listed: str | None, held: str, tells: str | None) -> None:
    one = wanted("a", "/adapters/x", revision="2", held=held)
    found = plan(AdapterSnapshot(desired(one), engine({} if listed is None else {"a": listed})))
    assert only(found).held_revision == tells


def test_returning_adapter_is_unloaded_again_then_ever_later() -> None:
    gone_once = with_unloaded(desired(), "a", "/a")
    assert returned(gone_once, {"a": "/a"}) == {"a"}
    assert returned(gone_once, {"a": "/other"}) == frozenset(), "that is another one"
    assert returned(replace(gone_once, specs={A: wanted("a")}), {"a": "/a"}) == frozenset()
    back = with_returned(gone_once, {"a"})
    progress = after_loss(Progress(life=1), 10.0, 0.0)
    first = AdapterSnapshot(back, engine({"a": "/a"}), life=1, progress={A: progress}, now=10.0)
    assert isinstance(plan(first).actions[0], Unload)
    second = replace(first, progress={A: after_loss(progress, 10.0, 0.0)})
    assert plan(second).actions == ()
    assert (only(plan(second)).state, only(plan(second)).reason) == (AdapterState.UNLOADING, "ReloadedByEngine")
    assert isinstance(plan(replace(second, now=15.0)).actions[0], Unload)


def test_number_of_remembered_unloaded_names_is_bounded() -> None:
    now = desired()
    for number in range(MOST_UNLOADED + 20):
        now = with_unloaded(now, f"a{number}", "/a")
    now = with_unloaded(now, "a50", "/b")
    assert len(now.unloaded) == MOST_UNLOADED
    assert list(now.unloaded)[-1] == "a50"


def test_evicted_adapters_are_loaded_again_into_free_slots() -> None:
    names = ("a", "b", "c")
    evicted = Rejection(EngineReason.EVICTED, "no room", retryable=False)
    progress = {name: after_rejection(current(None, wanted(name), 1), evicted, 0.0, 0.0) for name in names}
    snapshot = AdapterSnapshot(
        desired(*map(wanted, names), wanted("d")),
        engine({"d": "/adapters/x"}),
        life=1,
        progress=keyed(progress),
        now=1.0,
    )
    for limit, free in ((None, 0), (1, 0), (2, 1), (3, 2), (9, 3)):
        actions = plan(replace(snapshot, capacity=Capacity(loaded=limit))).actions
        assert [action.spec.name for action in actions if isinstance(action, Load)] == list(names[:free])


def test_what_failed_and_is_there_all_the_same_has_recovered() -> None:
    snapshot = failed(wanted("a"), REFUSED)
    assert recovered(snapshot, engine({"a": "/adapters/x"})) == {"a"}
    assert recovered(snapshot, engine({"a": "/other"})) == frozenset()
    assert (
        recovered(replace(snapshot, running=keyed({"a": Load(wanted("a"), "")})), engine({"a": "/adapters/x"}))
        == frozenset()
    )


def test_trailing_slash_is_no_other_path() -> None:
    assert holds(wanted("a", "/a/"), "/a")
    assert not holds(wanted("a", "/a"), None)


names = st.sampled_from(["a", "b", "c", "d"])
paths = st.sampled_from(["/1", "/2"])
adapters = st.builds(
    AdapterSpec,
    name=names,
    path=paths,
    held=st.one_of(st.none(), st.builds(LoadedWeights, paths, st.sampled_from([None, "1", "2"]))),
    revision=st.sampled_from([None, "1", "2"]),
    required=st.booleans(),
)


@given(st.lists(adapters), st.dictionaries(names, paths), st.frozensets(names), st.frozensets(names), st.data())
def test_executed_plans_converge_and_come_to_rest(
    many: list[AdapterSpec], listed: dict[str, str], leaving: frozenset[str], bad: frozenset[str], data: st.DataObject
) -> None:
    """A simulated engine that refuses some adapters and now and then answers with a fault that passes."""
    goal = desired(*many)
    snapshot = AdapterSnapshot(replace(goal, leaving=leaving - active(goal).keys()), engine(listed), life=1)
    was_there = dict(listed)
    now = 0.0
    for _ in range(60):
        snapshot = replace(snapshot, now=now, desired=with_removed(snapshot.desired, removed(snapshot)))
        found = plan(snapshot)
        names_acted = [action.key[0] for action in found.actions]
        assert len(set(names_acted)) == len(names_acted)
        if not found.actions and all(
            report.state in (AdapterState.LOADED, AdapterState.FAILED) for report in found.reports
        ):
            break
        has = dict(snapshot.view.adapters or {})
        progress = dict(snapshot.progress)
        for action in found.actions:
            if isinstance(action, Unload):
                del has[action.name]
                continue
            assert not isinstance(action, Fetch)
            one = action.spec
            if isinstance(action, Restore):
                assert one.name not in has
                assert one.held is not None
                has[one.name] = one.held.path
                progress[action.key] = after_restore(progress[action.key])
                continue
            assert isinstance(action, Reload) == (one.name in has)
            if isinstance(action, Reload) and data.draw(st.booleans()):
                # It was not tried before, or the trial passed: the old weights are gone when the load fails.
                del has[one.name]
            before = after_call(current(progress.get(action.key), one, 1))
            if one.name in bad:
                progress[action.key] = after_rejection(before, REFUSED, now, 0.5)
            elif before.failures < 3 and data.draw(st.booleans()):
                progress[action.key] = after_rejection(before, BUSY, now, 0.5)
            else:
                has[one.name] = one.path
                progress[action.key] = after_success(before, now)
                snapshot = replace(snapshot, desired=with_loaded(snapshot.desired, one))
        snapshot = replace(snapshot, view=engine(has), progress=progress)
        now += 5.0
    else:
        raise AssertionError(f"no rest: {plan(snapshot)}")
    final = {report.lora_name: report.state for report in plan(snapshot).reports}
    for one in active(goal).values():
        bad_one = one.name in bad and not holds(one, was_there.get(one.name))
        assert final[one.name] is (AdapterState.FAILED if bad_one else AdapterState.LOADED)
        if one.held is not None and one.held.path != one.path:
            assert one.name in (snapshot.view.adapters or {}), "where weights were held before, some answer"
    assert not snapshot.desired.leaving
    for name, path in was_there.items():
        if name not in active(goal) and name not in leaving:
            assert (snapshot.view.adapters or {})[name] == path


@pytest.mark.parametrize(
    ("made_for", "served", "root", "doubted"),
    [
        ("org/Tiny", "tiny", None, False),
        ("/models/tiny/", "served", "/mnt/models/Tiny", False),
        ("meta-llama/Llama-3.1-8B", "llama", "/hub/models--meta-llama--Llama-3.1-8B/snapshots/0a1b", False),
        ("org/other", "tiny", "/models/tiny", True),
        ("", "tiny", None, False),
    ],
)
def test_adapter_made_for_another_model_is_doubted(made_for: str, served: str, root: str | None, doubted: bool) -> None:
    view = replace(engine({"a": "/adapters/x"}), base_models=(served,), base_roots=() if root is None else (root,))
    snapshot = AdapterSnapshot(desired(wanted("a")), view, base_models={"/adapters/x": made_for})
    report = only(plan(snapshot))
    assert report.state is AdapterState.LOADED
    assert bool(report.message) is doubted
    assert not doubted or (made_for in report.message and served in report.message)
    assert only(plan(replace(snapshot, view=replace(view, adapters={})))).message != report.message or not doubted


def test_report_says_what_a_slow_change_waits_for() -> None:
    swap = Reload(wanted("a", "/new"), "why")
    load = Load(wanted("b", "/b"), "why")
    snapshot = AdapterSnapshot(
        desired(wanted("a", "/new"), wanted("b", "/b")),
        engine({}),
        running=keyed({"a": swap, "b": load}),
        asked_at=keyed({"a": 10.0, "b": 11.0}),
        unloads_wait=True,
        now=10.5,
    )
    quick = plan(snapshot)
    assert [report.message for report in quick.reports] == ["why", "why"]
    assert quick.requeue_at == 10.0 + SLOW, "then there is more to say"
    assert plan(replace(snapshot, now=10.0 + SLOW)).requeue_at == 11.0 + SLOW
    one, other = (report.message for report in plan(replace(snapshot, now=20.0)).reports)
    assert "waits until the requests to a have ended" in one
    assert "one change at a time" in other
    assert "requests to a have ended" in other
    trying = replace(snapshot, now=20.0, view=engine({"a": "/old"}))
    assert {report.message for report in plan(trying).reports} == {"why The engine has not answered yet."}
    vllm = replace(snapshot, now=20.0, unloads_wait=False)
    assert {report.message for report in plan(vllm).reports} == {"why The engine has not answered yet."}


def test_what_waits_for_its_turn_is_not_slow() -> None:
    running = keyed({"a": Load(wanted("a"), "why")})
    found = plan(AdapterSnapshot(desired(wanted("a")), engine(), running=running, unloads_wait=True, now=1000.0))
    assert (only(found).message, found.requeue_at) == ("why", None)


def test_some_reports_are_those_of_the_whole_plan() -> None:
    snapshot = AdapterSnapshot(desired(wanted("a"), wanted("b", "/b"), wanted("c")), engine({"b": "/b"}))
    reports = {report.lora_name: report for report in plan(snapshot).reports}
    assert reports_of(snapshot, ("b", "a")) == (reports["b"], reports["a"])

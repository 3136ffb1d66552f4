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


def only_report(planned: Plan) -> AdapterReport:
    (report,) = planned.reports
    return report


def test_desired_adapter_is_loaded() -> None:
    planned = plan(AdapterSnapshot(desired(wanted("a")), engine()))
    assert planned.actions == (Load(wanted("a"), "The adapter is desired, and the engine does not list it."),)
    assert only_report(planned).state is AdapterState.PENDING


def test_loaded_adapter_is_left_alone() -> None:
    planned = plan(AdapterSnapshot(desired(wanted("a")), engine({"a": "/adapters/x"})))
    assert planned.actions == ()
    assert only_report(planned).state is AdapterState.LOADED


def test_another_path_under_the_name_is_replaced() -> None:
    (action,) = plan(AdapterSnapshot(desired(wanted("a", "/new")), engine({"a": "/old"}))).actions
    assert isinstance(action, Reload)
    assert "/old" in action.reason


@pytest.mark.parametrize(
    ("revision", "held", "reloads"), [("2", "1", True), ("2", None, True), ("2", "2", False), (None, "1", False)]
)
def test_revision_not_seen_accepted_is_loaded_again(revision: str | None, held: str | None, reloads: bool) -> None:
    spec = wanted("a", revision=revision, held=held)
    planned = plan(AdapterSnapshot(desired(spec), engine({"a": "/adapters/x"})))
    assert bool(planned.actions) is reloads


def test_nothing_is_done_while_the_engine_is_down() -> None:
    view = down(NotListeningError("http://localhost:8000"))
    planned = plan(AdapterSnapshot(desired(wanted("a")), view))
    assert planned.actions == ()
    assert only_report(planned).reason == "EngineNotReady"
    assert "http://localhost:8000" in only_report(planned).message


def test_list_without_its_key_fails_everything_at_once() -> None:
    fault = PermanentError(EngineReason.UNAUTHORIZED, "set ENGINE_API_KEY")
    planned = plan(AdapterSnapshot(desired(wanted("a")), EngineView(ready=True, adapters=None, error=fault)))
    assert planned.actions == ()
    assert (only_report(planned).state, only_report(planned).reason) == (AdapterState.FAILED, "EngineUnauthorized")
    transient = RetryableError(EngineReason.ENGINE_ERROR, "500")
    planned = plan(AdapterSnapshot(desired(wanted("a")), EngineView(ready=True, adapters=None, error=transient)))
    assert only_report(planned).state is AdapterState.PENDING


def test_engines_own_adapter_is_reported_and_left_alone() -> None:
    planned = plan(AdapterSnapshot(Desired(), engine({"b": "/b"})))
    assert planned.actions == ()
    assert (only_report(planned).reason, only_report(planned).owner, only_report(planned).lora_path) == (
        "Unmanaged",
        None,
        "/b",
    )


def test_leaving_name_is_unloaded_and_then_removed() -> None:
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


def test_name_that_is_being_loaded_is_not_yet_removed() -> None:
    leaving = desired(leaving=frozenset({"a"}))
    assert removed(AdapterSnapshot(leaving, engine(), running=keyed({"a": Load(wanted("a"), "")}))) == frozenset()


def failed(spec: AdapterSpec, fault: Rejection, attempts: int = 1) -> AdapterSnapshot:
    progress = current(None, spec, 1)
    for _ in range(attempts):
        progress = after_rejection(after_call(progress), fault, 0.0, 0.0)
    return AdapterSnapshot(desired(spec), engine(), life=1, progress=keyed({spec.name: progress}))


def test_rejection_fails_with_engine_message_and_waits_long() -> None:
    snapshot = replace(failed(wanted("a"), REFUSED), now=SLOW_RETRY - 1)
    planned = plan(snapshot)
    assert planned.actions == ()
    assert planned.requeue_at == SLOW_RETRY
    assert (only_report(planned).state, only_report(planned).retryable, only_report(planned).attempts) == (
        AdapterState.FAILED,
        False,
        1,
    )
    assert only_report(planned).message == REFUSED.message
    retried = plan(replace(snapshot, now=SLOW_RETRY))
    assert isinstance(retried.actions[0], Load)
    assert only_report(retried).state is AdapterState.FAILED


def test_retry_of_what_failed_reports_failed_until_it_ends() -> None:
    spec = wanted("a")
    snapshot = replace(failed(spec, REFUSED), running=keyed({"a": Load(spec, "again")}))
    assert only_report(plan(snapshot)).state is AdapterState.FAILED


@pytest.mark.parametrize("change", ["order", "life", "revision", "files"])
def test_rejection_is_retried_at_once_when_something_changed(change: str) -> None:
    snapshot = failed(wanted("a"), REFUSED)
    if change == "order":
        snapshot = replace(snapshot, desired=desired(wanted("a", order=1)))
    elif change == "life":
        snapshot = replace(snapshot, life=2)
    elif change == "revision":
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
    spec = wanted("a", required=True)
    within_patience, past_patience = failed(spec, BUSY, PATIENCE - 1), failed(spec, BUSY, PATIENCE)
    assert readiness_blockers(within_patience, plan(within_patience).reports)
    assert not readiness_blockers(past_patience, plan(past_patience).reports)
    assert only_report(plan(past_patience)).retryable


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


def test_only_listed_adapter_without_an_action_is_lost() -> None:
    snapshot = AdapterSnapshot(
        desired(wanted("a"), wanted("b"), wanted("c")), engine({"a": "/adapters/x", "b": "/adapters/x"})
    )
    snapshot = replace(snapshot, running=keyed({"b": Reload(wanted("b"), "")}))
    assert lost(snapshot, engine()) == {"a"}
    assert lost(snapshot, down(NotListeningError("x"))) == frozenset()


@pytest.mark.parametrize(
    ("spec", "listed", "waits"),
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
def test_pod_waits_for_required_and_for_served_adapters(spec: AdapterSpec, listed: dict[str, str], waits: bool) -> None:
    snapshot = AdapterSnapshot(desired(spec), engine(listed))
    assert bool(readiness_blockers(snapshot, plan(snapshot).reports)) is waits


def test_swapped_adapter_does_not_hold_pod_back() -> None:
    spec = wanted("a", "/new", served=True)
    swapped = AdapterSnapshot(desired(spec), engine(), running=keyed({"a": Reload(spec, "why")}))
    assert not readiness_blockers(swapped, plan(swapped).reports)
    reloaded = AdapterSnapshot(desired(spec), engine(), running=keyed({"a": Load(spec, "why")}))
    assert readiness_blockers(reloaded, plan(reloaded).reports)


def test_permanently_failed_adapter_does_not_hold_model_back() -> None:
    snapshot = failed(wanted("a", required=True), REFUSED)
    assert not readiness_blockers(snapshot, plan(snapshot).reports)


def replacing(old_path: str) -> AdapterSpec:
    """Return new weights that are wanted where others were held."""
    return AdapterSpec("a", "/new", revision="2", served=True, held=LoadedWeights(old_path, "1"))


def failed_replacing(old_path: str = "/old") -> AdapterSnapshot:
    """Return a pod whose engine lost the old weights and refused the wanted ones."""
    return failed(replacing(old_path), REFUSED)


def test_previous_weights_are_restored_after_a_rejection() -> None:
    snapshot = failed_replacing()
    (action,) = plan(snapshot).actions
    assert isinstance(action, Restore)
    assert "/old" in action.reason
    assert (only_report(plan(snapshot)).state, only_report(plan(snapshot)).message) == (
        AdapterState.FAILED,
        REFUSED.message,
    )
    busy = replace(snapshot, running=keyed({"a": action}))
    assert only_report(plan(busy)).state is AdapterState.FAILED
    restored = replace(snapshot, view=engine({"a": "/old"}))
    assert plan(restored).actions == ()
    assert (only_report(plan(restored)).held_revision, only_report(plan(restored)).revision) == ("1", "2")
    actions = plan(replace(restored, now=SLOW_RETRY)).actions
    assert isinstance(actions[0], Reload), "the wanted ones are tried again as if nothing had happened"


def test_weights_are_restored_once_per_failure() -> None:
    snapshot = failed_replacing()
    tried_once = replace(snapshot, progress={A: after_restore(snapshot.progress[A])})
    assert plan(tried_once).actions == ()
    failed_again = replace(tried_once, progress={A: after_rejection(tried_once.progress[A], REFUSED, 0.0, 0.0)})
    assert isinstance(plan(failed_again).actions[0], Restore)


@pytest.mark.parametrize(
    "snapshot",
    [
        failed_replacing("/new"),
        failed_replacing("/new/"),
        failed(replace(replacing("/old"), held=None), REFUSED),
        failed(replacing("/old"), Rejection(EngineReason.EVICTED, "no room", retryable=False)),
    ],
    ids=["the same folder", "the same folder, written otherwise", "nothing held before", "evicted"],
)
def test_what_can_not_be_restored_or_must_not_is_left(snapshot: AdapterSnapshot) -> None:
    assert plan(snapshot).actions == ()


def test_trial_is_unloaded_unless_a_reload_runs() -> None:
    spec = wanted("a", "/new")
    trial = trial_name("a", "/new")
    view = replace(engine({"a": "/old"}), trials=frozenset({trial}))
    busy = AdapterSnapshot(desired(spec), view, running=keyed({"a": Reload(spec, "why")}))
    assert plan(busy).actions == ()
    left_over = AdapterSnapshot(desired(wanted("a", "/old")), view)
    (action,) = plan(left_over).actions
    assert isinstance(action, Unload)
    assert action.name == trial
    assert [report.lora_name for report in plan(left_over).reports] == ["a"]
    assert plan(replace(left_over, running=keyed({trial: action}))).actions == ()
    rejected = replace(left_over, progress=keyed({trial: after_rejection(Progress(), BUSY, 0.0, 0.0)}))
    assert (plan(rejected).actions, plan(rejected).requeue_at) == ((), FIRST_PAUSE)


@pytest.mark.parametrize(
    ("listed", "held", "expected"),
    [("/adapters/x", "1", "1"), ("/adapters/x/", "1", "1"), ("/other", "1", None), (None, "1", None)],
)
def test_held_revision_is_that_of_the_listed_path(listed: str | None, held: str, expected: str | None) -> None:
    spec = wanted("a", "/adapters/x", revision="2", held=held)
    planned = plan(AdapterSnapshot(desired(spec), engine({} if listed is None else {"a": listed})))
    assert only_report(planned).held_revision == expected


def test_returning_adapter_is_unloaded_again_then_ever_later() -> None:
    unloaded = with_unloaded(desired(), "a", "/a")
    assert returned(unloaded, {"a": "/a"}) == {"a"}
    assert returned(unloaded, {"a": "/other"}) == frozenset(), "that is another one"
    assert returned(replace(unloaded, specs={A: wanted("a")}), {"a": "/a"}) == frozenset()
    with_return = with_returned(unloaded, {"a"})
    progress = after_loss(Progress(life=1), 10.0, 0.0)
    first = AdapterSnapshot(with_return, engine({"a": "/a"}), life=1, progress={A: progress}, now=10.0)
    assert isinstance(plan(first).actions[0], Unload)
    second = replace(first, progress={A: after_loss(progress, 10.0, 0.0)})
    assert plan(second).actions == ()
    assert (only_report(plan(second)).state, only_report(plan(second)).reason) == (
        AdapterState.UNLOADING,
        "ReloadedByEngine",
    )
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


def test_failed_adapter_that_engine_lists_has_recovered() -> None:
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
    specs: list[AdapterSpec],
    listed: dict[str, str],
    leaving: frozenset[str],
    rejected: frozenset[str],
    data: st.DataObject,
) -> None:
    """A simulated engine that refuses some adapters and now and then answers with a fault that passes."""
    desired_state = desired(*specs)
    snapshot = AdapterSnapshot(
        replace(desired_state, leaving=leaving - active(desired_state).keys()), engine(listed), life=1
    )
    listed_before = dict(listed)
    now = 0.0
    for _ in range(60):
        snapshot = replace(snapshot, now=now, desired=with_removed(snapshot.desired, removed(snapshot)))
        planned = plan(snapshot)
        acted_names = [action.key[0] for action in planned.actions]
        assert len(set(acted_names)) == len(acted_names)
        if not planned.actions and all(
            report.state in (AdapterState.LOADED, AdapterState.FAILED) for report in planned.reports
        ):
            break
        loaded = dict(snapshot.view.adapters or {})
        progress = dict(snapshot.progress)
        for action in planned.actions:
            if isinstance(action, Unload):
                del loaded[action.name]
                continue
            assert not isinstance(action, Fetch)
            spec = action.spec
            if isinstance(action, Restore):
                assert spec.name not in loaded
                assert spec.held is not None
                loaded[spec.name] = spec.held.path
                progress[action.key] = after_restore(progress[action.key])
                continue
            assert isinstance(action, Reload) == (spec.name in loaded)
            if isinstance(action, Reload) and data.draw(st.booleans()):
                # It was not tried before, or the trial passed: the old weights are gone when the load fails.
                del loaded[spec.name]
            before = after_call(current(progress.get(action.key), spec, 1))
            if spec.name in rejected:
                progress[action.key] = after_rejection(before, REFUSED, now, 0.5)
            elif before.failures < 3 and data.draw(st.booleans()):
                progress[action.key] = after_rejection(before, BUSY, now, 0.5)
            else:
                loaded[spec.name] = spec.path
                progress[action.key] = after_success(before, now)
                snapshot = replace(snapshot, desired=with_loaded(snapshot.desired, spec))
        snapshot = replace(snapshot, view=engine(loaded), progress=progress)
        now += 5.0
    else:
        raise AssertionError(f"no rest: {plan(snapshot)}")
    final = {report.lora_name: report.state for report in plan(snapshot).reports}
    for spec in active(desired_state).values():
        is_rejected = spec.name in rejected and not holds(spec, listed_before.get(spec.name))
        assert final[spec.name] is (AdapterState.FAILED if is_rejected else AdapterState.LOADED)
        if spec.held is not None and spec.held.path != spec.path:
            assert spec.name in (snapshot.view.adapters or {}), "where weights were held before, some answer"
    assert not snapshot.desired.leaving
    for name, path in listed_before.items():
        if name not in active(desired_state) and name not in leaving:
            assert (snapshot.view.adapters or {})[name] == path


@pytest.mark.parametrize(
    ("base_model", "served", "root", "doubted"),
    [
        ("org/Tiny", "tiny", None, False),
        ("/models/tiny/", "served", "/mnt/models/Tiny", False),
        ("meta-llama/Llama-3.1-8B", "llama", "/hub/models--meta-llama--Llama-3.1-8B/snapshots/0a1b", False),
        ("org/other", "tiny", "/models/tiny", True),
        ("", "tiny", None, False),
    ],
)
def test_adapter_made_for_another_model_is_doubted(
    base_model: str, served: str, root: str | None, doubted: bool
) -> None:
    view = replace(engine({"a": "/adapters/x"}), base_models=(served,), base_roots=() if root is None else (root,))
    snapshot = AdapterSnapshot(desired(wanted("a")), view, base_models={"/adapters/x": base_model})
    report = only_report(plan(snapshot))
    assert report.state is AdapterState.LOADED
    assert bool(report.message) is doubted
    assert not doubted or (base_model in report.message and served in report.message)
    assert (
        only_report(plan(replace(snapshot, view=replace(view, adapters={})))).message != report.message or not doubted
    )


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
    early = plan(snapshot)
    assert [report.message for report in early.reports] == ["why", "why"]
    assert early.requeue_at == 10.0 + SLOW, "then there is more to say"
    assert plan(replace(snapshot, now=10.0 + SLOW)).requeue_at == 11.0 + SLOW
    swap_message, load_message = (report.message for report in plan(replace(snapshot, now=20.0)).reports)
    assert "waits until the requests to a have ended" in swap_message
    assert "one change at a time" in load_message
    assert "requests to a have ended" in load_message
    in_trial = replace(snapshot, now=20.0, view=engine({"a": "/old"}))
    assert {report.message for report in plan(in_trial).reports} == {"why The engine has not answered yet."}
    vllm = replace(snapshot, now=20.0, unloads_wait=False)
    assert {report.message for report in plan(vllm).reports} == {"why The engine has not answered yet."}


def test_what_waits_for_its_turn_is_not_slow() -> None:
    running = keyed({"a": Load(wanted("a"), "why")})
    planned = plan(AdapterSnapshot(desired(wanted("a")), engine(), running=running, unloads_wait=True, now=1000.0))
    assert (only_report(planned).message, planned.requeue_at) == ("why", None)


def test_some_reports_are_those_of_the_whole_plan() -> None:
    snapshot = AdapterSnapshot(desired(wanted("a"), wanted("b", "/b"), wanted("c")), engine({"b": "/b"}))
    reports = {report.lora_name: report for report in plan(snapshot).reports}
    assert reports_of(snapshot, ("b", "a")) == (reports["b"], reports["a"])

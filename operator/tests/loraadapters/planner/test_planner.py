"""The planner: from pods, reports and LoraAdapters to actions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner import serving_labels
from patio_operator.loraadapters.planner.candidates import observe
from patio_operator.loraadapters.planner.finalizers import DELETION_BOUND
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.plan import (
    AddFinalizer,
    InstanceState,
    Load,
    Order,
    Plan,
    Rejection,
    RemoveFinalizer,
    SetServingLabels,
    Unload,
)
from patio_operator.loraadapters.planner.planner import plan
from patio_operator.loraadapters.planner.selection import load_request, selects
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_operator.pods.engine_pod import EnginePod
from patio_protocol.adapters import AdapterState, LoadRequest
from patio_testing.operator.builders import NOW, lora_adapter, pod, report, seen, silent


def planned(
    pods: list[EnginePod],
    views: dict[str, Observation],
    adapters: list[LoraAdapter],
    rejections: dict[tuple[str, Order], Rejection] | None = None,
) -> Plan:
    return plan(Snapshot(pods, views, adapters, NOW, rejections=rejections or {}))


def states(decided: Plan, name: str = "sql") -> dict[str, InstanceState]:
    return {instance.pod.name: instance.state for instance in decided.placements[name].instances}


def test_every_matching_pod_without_the_adapter_is_to_load_it() -> None:
    adapter, pods = lora_adapter(), [pod("a"), pod("b"), pod("c", app="other")]
    decided = planned(pods, {pod.uid: seen() for pod in pods}, [adapter])
    assert [(action.pod.name, action.request) for action in decided.actions if isinstance(action, Load)] == [
        ("a", load_request(adapter)),
        ("b", load_request(adapter)),
    ]
    assert states(decided) == {"a": InstanceState.PENDING, "b": InstanceState.PENDING}


def test_nothing_is_done_where_the_adapter_is_loaded() -> None:
    adapter, engine_pod = lora_adapter(), pod(serving=["sql"])
    decided = planned([engine_pod], {engine_pod.uid: seen(report(load_request(adapter)))}, [adapter])
    assert decided.actions == ()
    assert states(decided) == {"pod-0": InstanceState.LOADED}


def test_message_of_the_engine_reaches_the_placement() -> None:
    adapter, engine_pod = lora_adapter(), pod()
    failed = report(load_request(adapter), AdapterState.FAILED, reason="EngineRejected", message="No adapter found")
    decided = planned([engine_pod], {engine_pod.uid: seen(failed)}, [adapter])
    assert decided.actions == ()
    (instances,) = decided.placements["sql"].instances
    assert (instances.state, instances.reason, instances.message) == (
        InstanceState.FAILED,
        "EngineRejected",
        "No adapter found",
    )


def test_manually_loaded_adapter_is_never_touched() -> None:
    by_hand = report(LoadRequest(lora_name="mine", lora_path="/adapters/mine"))
    engine_pod = pod()
    assert planned([engine_pod], {engine_pod.uid: seen(by_hand)}, []).actions == ()


def test_name_that_was_loaded_manually_is_reported_as_taken() -> None:
    by_hand = report(LoadRequest(lora_name="sql", lora_path="/adapters/mine"))
    engine_pod = pod()
    decided = planned([engine_pod], {engine_pod.uid: seen(by_hand)}, [lora_adapter()])
    assert decided.actions == ()
    assert [(instances.state, instances.reason) for instances in decided.placements["sql"].instances] == [
        (InstanceState.FAILED, "NameTaken")
    ]


def test_older_of_two_with_one_name_has_it_and_other_names_it() -> None:
    older = lora_adapter("older", adapterName="sql")
    younger = lora_adapter("younger", adapterName="sql", metadata={"creationTimestamp": "2026-11-21T11:00:00Z"})
    engine_pod = pod()
    decided = planned([engine_pod], {engine_pod.uid: seen()}, [younger, older])
    assert [action.request.owner for action in decided.actions if isinstance(action, Load)] == [
        "LoraAdapter/team/older"
    ]
    (instances,) = decided.placements["younger"].instances
    assert instances.reason == "NameTaken"
    assert "LoraAdapter/team/older" in instances.message


def test_what_no_lora_adapter_wants_any_more_is_unloaded() -> None:
    abandoned, engine_pod = lora_adapter("gone"), pod()
    decided = planned([engine_pod], {engine_pod.uid: seen(report(load_request(abandoned)))}, [])
    assert [
        (action.request.lora_name, action.request.owner) for action in decided.actions if isinstance(action, Unload)
    ] == [("gone", "LoraAdapter/team/gone")]


def test_pod_that_no_longer_matches_gives_the_adapter_back() -> None:
    adapter, engine_pod = lora_adapter(), pod(app="other")
    decided = planned([engine_pod], {engine_pod.uid: seen(report(load_request(adapter)))}, [adapter])
    assert [type(action) for action in decided.actions] == [Unload]


def test_adapter_of_another_namespaces_owner_is_never_unloaded() -> None:
    foreign = report(LoadRequest(lora_name="x", lora_path="/x", owner="LoraAdapter/elsewhere/x"))
    engine_pod = pod()
    assert planned([engine_pod], {engine_pod.uid: seen(foreign)}, []).actions == ()


def test_sidecar_that_stopped_answering_is_unknown_and_not_ready() -> None:
    engine_pod = pod()
    decided = planned([engine_pod], {engine_pod.uid: silent(seen())}, [lora_adapter()])
    assert states(decided) == {"pod-0": InstanceState.UNKNOWN}
    assert decided.actions == ()


def test_sidecar_that_never_answered_yet_is_pending() -> None:
    decided = planned([pod(ip=None)], {}, [lora_adapter()])
    assert states(decided) == {"pod-0": InstanceState.PENDING}


def test_pod_with_another_base_model_does_not_match_the_adapter() -> None:
    engine_pod = pod()
    decided = planned([engine_pod], {engine_pod.uid: seen(base_models=("other",))}, [lora_adapter(baseModel="tiny")])
    assert decided.actions == ()
    assert decided.placements["sql"].instances == ()


def test_guarded_adapter_waits_for_the_engine_to_name_its_model() -> None:
    engine_pod, views = pod(), {pod().uid: seen(base_models=())}
    guarded = planned([engine_pod], views, [lora_adapter(baseModel="tiny")])
    assert guarded.actions == ()
    assert [instances.reason for instances in guarded.placements["sql"].instances] == ["EngineNotReady"]
    assert [type(action) for action in planned([engine_pod], views, [lora_adapter()]).actions] == [Load]


def test_pod_that_is_leaving_is_left_alone() -> None:
    engine_pod = pod(leaving=True)
    decided = planned([engine_pod], {engine_pod.uid: seen()}, [lora_adapter()])
    assert decided.actions == ()
    assert decided.placements["sql"].instances == ()


def test_rejected_order_waits_for_its_retry_time() -> None:
    engine_pod = pod()
    rejection = Rejection("No more room.", retryable=True, until=NOW + timedelta(seconds=5))
    decided = planned(
        [engine_pod],
        {engine_pod.uid: seen()},
        [lora_adapter()],
        {(engine_pod.uid, load_request(lora_adapter())): rejection},
    )
    assert decided.actions == ()
    assert decided.requeue_at == rejection.until
    assert [instances.message for instances in decided.placements["sql"].instances] == ["No more room."]


def test_rejection_is_reported_until_the_order_is_accepted() -> None:
    engine_pod = pod()
    over = Rejection("Not here.", retryable=False, until=NOW)
    decided = planned(
        [engine_pod], {engine_pod.uid: seen()}, [lora_adapter()], {(engine_pod.uid, load_request(lora_adapter())): over}
    )
    assert [type(action) for action in decided.actions] == [Load]
    assert [(instances.state, instances.reason) for instances in decided.placements["sql"].instances] == [
        (InstanceState.FAILED, "SidecarRejected")
    ]


def test_finalizer_is_put_on_before_anything_is_loaded() -> None:
    adapter = lora_adapter(metadata={"finalizers": []})
    decided = planned([pod()], {pod().uid: seen()}, [adapter])
    assert [type(action) for action in decided.actions] == [AddFinalizer, Load]


DELETED = {"deletionTimestamp": "2026-11-21T12:00:00Z"}


def test_deleted_adapter_is_unloaded_first_and_released_after() -> None:
    adapter, engine_pod = lora_adapter(metadata=DELETED), pod()
    first = planned([engine_pod], {engine_pod.uid: seen(report(load_request(adapter)))}, [adapter])
    assert [type(action) for action in first.actions] == [Unload]
    assert first.requeue_at == NOW + DELETION_BOUND
    second = planned([engine_pod], {engine_pod.uid: seen()}, [adapter])
    assert second.actions == (RemoveFinalizer(adapter),)


def test_deletion_waits_for_a_silent_pod_so_long_then_names_it() -> None:
    engine_pod = pod()
    silent = {engine_pod.uid: Observation(None, "gone", ever_answered=True)}
    adapter = lora_adapter(metadata=DELETED)
    assert planned([engine_pod], silent, [adapter]).actions == ()
    late = plan(Snapshot([engine_pod], silent, [adapter], NOW + DELETION_BOUND))
    assert late.actions == (RemoveFinalizer(adapter, ("pod-0",)),)


@pytest.mark.parametrize("role_label", ["rbg.workloads.x-k8s.io", "rolebasedgroup.workloads.x-k8s.io"])
def test_role_is_found_by_the_labels_of_either_generation(role_label: str) -> None:
    old = role_label.startswith("rolebasedgroup")
    labels = {
        f"{role_label}/{'name' if old else 'group-name'}": "demo",
        f"{role_label}/{'role' if old else 'role-name'}": "worker",
    }
    engine_pod = pod("demo-worker-0", **labels)
    adapter = lora_adapter(selector=None, roleRef={"group": "demo", "role": "worker"})
    assert [type(action) for action in planned([engine_pod], {engine_pod.uid: seen()}, [adapter]).actions] == [Load]


def test_labels_of_a_pod_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_labels, "MOST_LABELLED", 3)
    adapters = [lora_adapter(f"a{number}") for number in range(5)]
    engine_pod = pod(serving=["a4"])
    sidecar = seen(*[report(load_request(each)) for each in adapters])
    (labels,) = planned([engine_pod], {engine_pod.uid: sidecar}, adapters).actions
    assert isinstance(labels, SetServingLabels)
    assert labels.names == {"a4", "a0", "a1"}, "what is there stays"
    assert len(labels.owners) == 3
    labelled = replace(engine_pod, serving=labels.names, owners=labels.owners)
    assert planned([labelled], {engine_pod.uid: sidecar}, adapters).actions == ()


def test_name_that_changes_hands_changes_its_owners_label() -> None:
    old = lora_adapter("old", adapterName="sql", metadata=DELETED)
    new = lora_adapter("new", adapterName="sql")
    engine_pod = replace(pod(), serving=frozenset({"sql"}), owners=frozenset({("uid-old", "sql")}))
    (action,) = planned([engine_pod], {engine_pod.uid: seen(report(load_request(old)))}, [old, new]).actions
    assert isinstance(action, SetServingLabels)
    assert (action.names, action.owners) == (frozenset(), frozenset()), "both labels go before the weights do"
    bare = replace(engine_pod, serving=action.names, owners=action.owners)
    (shown,) = planned([bare], {engine_pod.uid: seen(report(load_request(new)))}, [new]).actions
    assert isinstance(shown, SetServingLabels)
    assert (shown.names, shown.owners) == (frozenset({"sql"}), frozenset({("uid-new", "sql")}))


def test_sidecar_reports_an_adapter_by_its_name() -> None:
    loaded = report(load_request(lora_adapter()))
    assert seen(loaded).report("sql") is loaded
    assert seen(loaded).report("other") is None
    assert silent(seen(loaded)).report("sql") is None


def test_adapter_without_selector_and_role_selects_no_pod() -> None:
    adapter = lora_adapter()
    nothing = adapter.model_copy(update={"spec": adapter.spec.model_copy(update={"selector": None})})
    assert not selects(nothing, {"app": "vllm"})


def test_rejected_unload_is_not_repeated_before_its_time() -> None:
    orphan = report(load_request(lora_adapter("old")))
    engine_pod = pod()
    (action,) = planned([engine_pod], {engine_pod.uid: seen(orphan)}, []).actions
    assert isinstance(action, Unload)
    rejection = Rejection("the engine is busy", retryable=True, until=NOW + timedelta(seconds=5))
    snapshot = Snapshot(
        [engine_pod],
        {engine_pod.uid: seen(orphan)},
        [],
        NOW,
        rejections={(engine_pod.uid, action.request): rejection},
    )
    assert plan(snapshot).actions == ()
    assert plan(replace(snapshot, now=NOW + timedelta(seconds=6))).actions == (action,)


def test_order_for_the_new_source_that_was_rejected_is_shown() -> None:
    old, new = lora_adapter(), lora_adapter(uri="file:///adapters/new")
    engine_pod = pod()
    unloaded = report(load_request(old), AdapterState.FAILED)
    rejection = Rejection("rank 64 is too high", retryable=False, until=NOW + timedelta(seconds=60))
    decided = plan(
        Snapshot(
            [engine_pod],
            {engine_pod.uid: seen(unloaded)},
            [new],
            NOW,
            rejections={(engine_pod.uid, load_request(new)): rejection},
        )
    )
    (instance,) = decided.placements["sql"].instances
    assert (instance.state, instance.message) == (InstanceState.FAILED, "rank 64 is too high")


def test_labels_of_a_silent_pod_stay_as_they_are() -> None:
    (observed,) = observe(Snapshot([pod(serving=["sql"])], {"uid-pod-0": silent(seen())}, [], NOW))
    assert serving_labels.labels_to_set(observed, {}, {}) is None

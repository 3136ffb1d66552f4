"""Statuses and events: what users read of a LoraAdapter."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from patio_api.loraadapter import MAX_INSTANCES, LoraAdapter, LoraAdapterStatus
from patio_operator.loraadapters.planner.plan import Condition, Instance, InstanceState, Placement
from patio_operator.loraadapters.planner.status import Event, is_recorded, recorded
from patio_operator.loraadapters.planner.status import events as events_of
from patio_operator.loraadapters.planner.status import status as status_of
from patio_testing.operator.builders import NOW, lora_adapter, pod

ADAPTER = lora_adapter()
LATER = NOW + timedelta(minutes=5)


def instance(name: str, state: InstanceState, reason: str = "", message: str = "") -> Instance:
    return Instance(pod(name), state, reason or state.value, message)


def status(adapter: LoraAdapter, on: list[Instance], before: dict[str, Any], now: datetime) -> dict[str, Any]:
    return status_of(adapter, Placement(tuple(on), len(on)), recorded(before), now)


def events(before: dict[str, Any], after: dict[str, Any]) -> tuple[Event, ...]:
    return events_of(recorded(before), after)


def ready(of: dict[str, Any]) -> tuple[str, str]:
    (found,) = [condition for condition in of["conditions"] if condition["type"] == "Ready"]
    return found["status"], found["reason"]


def test_ready_means_loaded_on_every_pod() -> None:
    instances = [instance("a", InstanceState.LOADED), instance("b", InstanceState.LOADED)]
    assert ready(status(ADAPTER, instances, {}, NOW)) == ("True", "Loaded")
    assert ready(status(ADAPTER, [*instances, instance("c", InstanceState.LOADING)], {}, NOW)) == ("False", "Loading")
    assert ready(status(ADAPTER, [*instances, instance("c", InstanceState.UNKNOWN)], {}, NOW)) == (
        "False",
        "SidecarUnreachable",
    )


def test_no_matching_pod_is_not_ready_and_says_what_to_check() -> None:
    assert ready(status(ADAPTER, [], {}, NOW)) == ("False", "NoMatchingPods")


def test_failure_has_the_reason_and_message_of_the_engine() -> None:
    after = status(ADAPTER, [instance("a", InstanceState.FAILED, "EngineRejected", "No adapter found for /x")], {}, NOW)
    assert ready(after) == ("False", "EngineRejected")
    assert all(
        "No adapter found for /x" in condition["message"]
        for condition in after["conditions"]
        if condition["type"] != "Progressing"
    )


def test_unchanged_world_gives_an_unchanged_status() -> None:
    world = [instance("a", InstanceState.LOADED), instance("b", InstanceState.FAILED, "EngineRejected", "no")]
    first = status(ADAPTER, world, {}, NOW)
    assert status(ADAPTER, world, first, LATER) == first
    assert events(first, first) == ()


def test_transition_times_move_only_with_what_changed() -> None:
    first = status(ADAPTER, [instance("a", InstanceState.LOADED), instance("b", InstanceState.LOADING)], {}, NOW)
    second = status(ADAPTER, [instance("a", InstanceState.LOADED), instance("b", InstanceState.LOADED)], first, LATER)
    times = {condition["type"]: condition["lastTransitionTime"] for condition in second["conditions"]}
    assert times == {
        "Ready": "2026-11-21T12:05:00Z",
        "Progressing": "2026-11-21T12:05:00Z",
        "Degraded": "2026-11-21T12:00:00Z",
    }
    assert {instance["pod"]: instance["since"] for instance in second["instances"]} == {
        "a": "2026-11-21T12:00:00Z",
        "b": "2026-11-21T12:05:00Z",
    }


def test_list_is_capped_with_failed_first_and_counts_stay_whole() -> None:
    world = [instance(f"p{index:03}", InstanceState.LOADED) for index in range(150)] + [
        instance("zz", InstanceState.FAILED)
    ]
    after = status(ADAPTER, world, {}, NOW)
    assert len(after["instances"]) == MAX_INSTANCES
    assert after["instances"][0]["pod"] == "zz"
    assert (after["desiredReplicas"], after["readyReplicas"], after["failedReplicas"]) == (151, 150, 1)


def test_status_fits_the_custom_resources_own_model() -> None:
    world = [instance(state.value.lower(), state) for state in InstanceState]
    LoraAdapterStatus.model_validate(status(ADAPTER, world, {}, NOW))


def test_each_outcome_is_an_event_once() -> None:
    loading = status(ADAPTER, [instance("a", InstanceState.LOADING)], {}, NOW)
    failed = status(ADAPTER, [instance("a", InstanceState.FAILED, "EngineRejected", "No adapter found")], loading, NOW)
    loaded = status(ADAPTER, [instance("a", InstanceState.LOADED)], failed, NOW)
    assert events({}, loading) == ()
    assert events(loading, failed) == (Event("Warning", "EngineRejected", "a: No adapter found"),)
    assert events(failed, loaded) == (Event("Normal", "Loaded", "The adapter is loaded on 1 pod."),)
    assert [event.reason for event in events(loaded, loading)] == ["NotReady"]


def test_one_fault_on_many_pods_is_one_event() -> None:
    world = [instance(f"p{index}", InstanceState.FAILED, "EngineRejected", "no") for index in range(5)]
    assert events({}, status(ADAPTER, world, {}, NOW)) == (
        Event("Warning", "EngineRejected", "p0, p1, p2 and 2 more: no"),
    )


def test_progress_of_a_rollout_is_reported() -> None:
    new = instance("a", InstanceState.LOADED)
    old = Instance(pod("b"), InstanceState.LOADED, "Outdated", "Waiting: maxUnavailable is 1.", updated=False)
    after = status(ADAPTER, [new, old], {}, NOW)
    assert ready(after) == ("False", "RollingOut")
    assert (after["readyReplicas"], after["updatedReplicas"]) == (2, 1)
    messages = [condition["message"] for condition in after["conditions"]]
    assert messages == [
        "The adapter is loaded on 2 of 2 pods. 1 of them serves the current source. b: Waiting: maxUnavailable is 1.",
        "b: Waiting: maxUnavailable is 1.",
        "No pod reports an error.",
    ]


def test_spec_change_is_no_warning_and_a_lost_adapter_is() -> None:
    two = [instance("a", InstanceState.LOADED), instance("b", InstanceState.LOADED)]
    before = status(ADAPTER, two, {}, NOW)
    grown = status(ADAPTER, [*two, instance("c", InstanceState.LOADING)], before, NOW)
    assert [(event.type, event.reason) for event in events(before, grown)] == [("Normal", "Loading")]
    lost = status(ADAPTER, [two[0], instance("b", InstanceState.LOADING)], before, NOW)
    assert [(event.type, event.reason) for event in events(before, lost)] == [("Warning", "NotReady")]
    changed = lora_adapter(metadata={"generation": 2}, uri="file:///new")
    old = [Instance(pod(name), InstanceState.LOADED, "Outdated", updated=False) for name in "ab"]
    rolling = status(changed, old, before, NOW)
    assert [(event.type, event.reason) for event in events(before, rolling)] == [("Normal", "RollingOut")]


def test_fault_of_the_whole_is_reported_once_and_is_degraded() -> None:
    condition = Condition("RolloutStopped", "The rollout is stopped: a failed.")
    old = Instance(pod("b"), InstanceState.LOADED, "Outdated", updated=False)
    failed = instance("a", InstanceState.FAILED, "AdapterRejected", "rank 64")
    after = status_of(ADAPTER, Placement((failed, old), 2, condition), recorded({}), NOW)
    assert ready(after) == ("False", "RolloutStopped")
    assert [(event.type, event.reason) for event in events({}, after)] == [
        ("Warning", "AdapterRejected"),
        ("Warning", "RolloutStopped"),
    ]
    again = status_of(ADAPTER, Placement((failed, old), 2, condition), recorded(after), LATER)
    assert again == after
    assert events(after, again) == ()


def test_degraded_says_each_fault_once_with_its_pods() -> None:
    world = [instance(f"p{index}", InstanceState.FAILED, "AdapterRejected", "rank 64") for index in range(5)]
    world += [instance("q", InstanceState.UNKNOWN, "SidecarUnreachable", "It does not answer.")]
    (*_, degraded) = status(ADAPTER, world, {}, NOW)["conditions"]
    assert degraded["message"] == "p0, p1, p2 and 2 more: rank 64; q: It does not answer."
    assert degraded["reason"] == "AdapterRejected"


def test_fault_with_another_number_in_it_is_no_new_event() -> None:
    first = status(ADAPTER, [instance("a", InstanceState.FAILED, "EngineRejected", "12.1 GiB free")], {}, NOW)
    second = status(ADAPTER, [instance("a", InstanceState.FAILED, "EngineRejected", "12.2 GiB free")], first, LATER)
    assert events(first, second) == ()


def test_status_has_a_bound() -> None:
    world = [Instance(pod(f"p{index:04}"), InstanceState.FAILED, f"R{index}", "x" * 100_000) for index in range(2000)]
    after = status_of(
        ADAPTER, Placement(tuple(world), 2000, Condition("RolloutStopped", "y" * 100_000)), recorded({}), NOW
    )
    assert len(json.dumps(after)) < 100_000
    assert len(events({}, after)) < 10
    assert after["failedReplicas"] == 2000
    LoraAdapterStatus.model_validate(after)


def test_what_is_being_unloaded_is_listed_and_not_counted() -> None:
    world = [instance("a", InstanceState.LOADED), instance("b", InstanceState.UNLOADING)]
    after = status_of(ADAPTER, Placement(tuple(world), 1), recorded({}), NOW)
    assert ready(after) == ("True", "Loaded")
    assert [instance["pod"] for instance in after["instances"]] == ["a", "b"]
    assert (after["desiredReplicas"], after["readyReplicas"], after["loadingReplicas"]) == (1, 1, 0)


def test_scale_subresource_finds_the_pods_by_their_label() -> None:
    assert status(ADAPTER, [], {}, NOW)["selector"] == "lora.patio.dev/sql=loaded,owner.lora.patio.dev/uid-sql=sql"


def test_status_of_another_writer_is_replaced() -> None:
    foreign = {"instances": [{"pod": "a", "state": "Loaded"}], "conditions": [{"type": "Ready", "status": "False"}]}
    after = status(ADAPTER, [instance("a", InstanceState.LOADED)], foreign, NOW)
    assert ready(after) == ("True", "Loaded")
    assert [event.reason for event in events(foreign, after)] == ["Loaded"]


def test_record_kept_of_a_status_shows_any_change_and_is_small() -> None:
    world = [instance(f"p{number}", InstanceState.FAILED, "AdapterRejected", "x" * 500) for number in range(100)]
    first = status(ADAPTER, world, {}, NOW)
    kept = recorded(json.loads(json.dumps(first)))
    assert is_recorded(kept, first)
    assert "xxx" not in repr(kept.instances)
    for field, value in (("message", "other"), ("node", "node-b"), ("attempts", 7), ("reason", "Lost"), ("pod", "q")):
        instances = [first["instances"][0] | {field: value}, *first["instances"][1:]]
        assert not is_recorded(kept, first | {"instances": instances}), field
    assert not is_recorded(kept, first | {"readyReplicas": 1})
    assert not is_recorded(kept, {name: value for name, value in first.items() if name != "selector"})
    assert not is_recorded(recorded({}), first)


def test_status_of_another_writer_is_read_as_far_as_it_goes() -> None:
    assert recorded({"instances": None, "conditions": None}).instances == {}
    assert recorded({"instances": ["x", {"pod": "a"}, {}]}).instances.keys() == {"a", "None"}

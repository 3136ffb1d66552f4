"""`replicas: N`: which pods have the adapter, why just these, and what happens when one cannot."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.candidates import UNREACHABLE_BOUND
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.plan import (
    InstanceState,
    Load,
    Order,
    Plan,
    Rejection,
    SetServingLabels,
    Unload,
)
from patio_operator.loraadapters.planner.planner import plan
from patio_operator.loraadapters.planner.selection import load_request, source_revision
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_operator.loraadapters.planner.status import recorded, status
from patio_operator.pods.engine_pod import EnginePod
from patio_protocol.adapters import AdapterState, LoadRequest
from patio_testing.operator.builders import NOW, lora_adapter, pod, report, seen, silent
from patio_testing.operator.fleet_simulator import FleetSimulator, Sidecar, loads


def planned(
    pods: list[EnginePod],
    views: dict[str, Observation],
    *adapters: LoraAdapter,
    rejections: dict[tuple[str, Order], Rejection] | None = None,
) -> Plan:
    return plan(
        Snapshot(
            pods,
            {f"uid-{name}": sidecar for name, sidecar in views.items()},
            adapters,
            NOW,
            rejections=rejections or {},
        )
    )


def loaded_by(decided: Plan) -> list[str]:
    return [action.pod.name for action in decided.actions if isinstance(action, Load)]


def unloaded_by(decided: Plan) -> dict[str, str]:
    return {action.pod.name: action.reason for action in decided.actions if isinstance(action, Unload)}


def having(*names: str, **changes: Any) -> dict[str, Observation]:
    return {name: seen(report(load_request(lora_adapter(**changes)))) for name in names}


def test_it_goes_to_as_many_pods_as_asked_spread_over_nodes() -> None:
    pods = [pod(f"{node}{index}", node=node) for node in "xyz" for index in range(3)]
    decided = planned(pods, {pod.name: seen() for pod in pods}, lora_adapter(replicas=3))
    assert sorted(name[0] for name in loaded_by(decided)) == ["x", "y", "z"]
    assert decided.placements["sql"].desired_replicas == 3


def test_it_stays_where_it_is_though_other_pods_are_emptier() -> None:
    pods = [pod("a", node="x", serving=["sql"]), pod("b", node="x", serving=["sql"]), pod("c", node="y")]
    decided = planned(pods, {**having("a", "b"), "c": seen()}, lora_adapter(replicas=2))
    assert decided.actions == ()


def test_pods_with_the_files_come_first_then_with_fewer_adapters() -> None:
    other = report(LoadRequest(lora_name="other", lora_path="/other"))
    adapter = lora_adapter(replicas=1, uri="s3://bucket/sql")
    pods = [pod("busy"), pod("idle")]
    assert loaded_by(planned(pods, {"busy": seen(other), "idle": seen()}, adapter)) == ["idle"]
    at_hand = seen(other, on_disk=("s3://bucket/sql",))
    assert loaded_by(planned(pods, {"busy": at_hand, "idle": seen()}, adapter)) == ["busy"]


def test_files_are_found_with_or_without_the_revision_in_the_uri() -> None:
    adapter = lora_adapter(replicas=1, source={"uri": "org/repo", "revision": "v2"})
    for written in ("hf://org/repo", "hf://org/repo@v2"):
        for at_hand in ("a", "b"):
            views = {name: seen(on_disk=(written,) if name == at_hand else ()) for name in ("a", "b")}
            assert loaded_by(planned([pod("a"), pod("b")], views, adapter)) == [at_hand]


def test_batch_size_is_a_preference_and_no_limit() -> None:
    others = [report(LoadRequest(lora_name=f"o{index}", lora_path="/o")) for index in range(2)]
    full, free = seen(*others, batch=2), seen(*others, batch=4)
    adapter = lora_adapter(replicas=1)
    assert loaded_by(planned([pod("full"), pod("free")], {"full": full, "free": free}, adapter)) == ["free"]
    assert loaded_by(planned([pod("full")], {"full": full}, adapter)) == ["full"]


def test_pod_without_ready_engine_gets_nothing_new_and_is_named() -> None:
    decided = planned([pod("a")], {"a": seen(engine_ready=False)}, lora_adapter(replicas=1))
    assert decided.actions == ()
    condition = decided.placements["sql"].condition
    assert condition is not None
    assert (condition.reason, condition.message) == ("EngineNotReady", "Found 0 of 1 pod. a: The engine is not ready.")


def test_fewer_pods_than_replicas_are_all_used_and_lack_reported() -> None:
    decided = planned([pod("a")], {"a": seen()}, lora_adapter(replicas=3))
    assert loaded_by(decided) == ["a"]
    condition = decided.placements["sql"].condition
    assert condition is not None
    assert condition.reason == "NotEnoughPods"
    (ready, *_) = status(lora_adapter(replicas=3), decided.placements["sql"], recorded({}), NOW)["conditions"]
    assert (ready["status"], ready["reason"]) == ("False", "NotEnoughPods")


def test_scale_down_leaves_silent_pods_then_most_crowded_node() -> None:
    adapter = lora_adapter(replicas=2)
    pods = [pod("a", node="x"), pod("b", node="x"), pod("c", node="y"), pod("d", node="z")]
    views = having("a", "b", "c")
    views["d"] = seen(report(load_request(adapter), AdapterState.LOADING))
    unloaded = unloaded_by(planned(pods, views, adapter))
    assert unloaded.keys() in ({"a", "d"}, {"b", "d"})
    assert unloaded.pop("d").endswith("this pod has not loaded it yet")
    assert unloaded.popitem()[1].endswith("2 of them are on node x")


def test_on_one_node_the_newest_goes_first() -> None:
    request = load_request(lora_adapter())
    views = {"old": seen(report(request, since=1.0)), "new": seen(report(request, since=2.0))}
    assert list(unloaded_by(planned([pod("new"), pod("old")], views, lora_adapter(replicas=1)))) == ["new"]


def test_label_is_removed_before_the_unload() -> None:
    pods = [pod("a", serving=["sql"]), pod("b", serving=["sql"])]
    decided = planned(pods, having("a", "b"), lora_adapter(replicas=0))
    assert unloaded_by(decided) == {}
    assert [(action.pod.name, action.names) for action in decided.actions if isinstance(action, SetServingLabels)] == [
        ("a", set()),
        ("b", set()),
    ]


def test_replicas_zero_is_not_ready_and_says_so() -> None:
    decided = planned([pod("a")], {"a": seen()}, lora_adapter(replicas=0))
    (ready, _, degraded) = status(lora_adapter(replicas=0), decided.placements["sql"], recorded({}), NOW)["conditions"]
    assert (ready["status"], ready["reason"]) == ("False", "ScaledToZero")
    assert degraded["status"] == "False"


def fleet(pods: int, *bad: str, room: int | None = None) -> FleetSimulator:
    world = FleetSimulator()
    refused = {source_revision(lora_adapter())}
    for index in range(pods):
        name = f"p{index}"
        world.add(pod(name, node=f"n{index % 3}"), Sidecar(room=room, bad=refused if name in bad else set()))
    return world


def test_two_pods_removed_of_ten_move_exactly_their_placements() -> None:
    world = fleet(10)
    world.declare(lora_adapter(replicas=3))
    world.settle()
    first = world.holding("sql")
    world.orders.clear()
    for name in sorted(first)[:2]:
        world.lose(name)
    world.settle()
    assert world.holding("sql") > {sorted(first)[2]}
    assert len(world.orders) == 2


def test_it_is_scaled_up_and_down_without_moving_what_stays() -> None:
    world = fleet(10)
    seen_at = []
    for replicas in (3, 5, 2):
        world.declare(lora_adapter(replicas=replicas))
        world.settle()
        seen_at.append(world.holding("sql"))
    assert [len(names) for names in seen_at] == [3, 5, 2]
    assert seen_at[0] < seen_at[1] > seen_at[2]
    assert len(world.orders) == 3 + 2 + 3


def test_permanent_rejection_tries_another_pod_and_frees_this() -> None:
    """A pod that rejects the adapter permanently loses it once enough others have it. No pod is tried twice."""
    world = fleet(5, "p0", "p1", "p2")
    world.declare(lora_adapter(replicas=2))
    world.settle()
    assert world.holding("sql") == {"p3", "p4"}
    assert all("sql" not in world.sidecar(name).entries for name in ("p0", "p1", "p2"))
    tried = [name for name, _ in loads(world.orders)]
    assert len(tried) == len(set(tried)), "no pod is tried twice"


def test_adapter_all_reject_tries_three_extra_pods_once_each() -> None:
    world = fleet(10, *(f"p{index}" for index in range(10)))
    world.declare(lora_adapter(replicas=2))
    world.settle()
    tried = [name for name, _ in loads(world.orders)]
    assert len(tried) == len(set(tried)) == 5
    decided = world.plan()
    after = status(lora_adapter(replicas=2), decided.placements["sql"], recorded({}), NOW)
    ready, progressing, degraded = after["conditions"]
    assert (ready["status"], ready["reason"]) == ("False", "Failed")
    assert "rank 64 is too high" in ready["message"]
    assert progressing["status"] == "False"
    assert degraded["status"] == "True"
    assert after["failedReplicas"] == 5
    assert decided.requeue_at is None


def test_silent_pod_keeps_its_place_for_a_while_then_is_replaced() -> None:
    pods = [pod("a", serving=["sql"]), pod("b")]
    views = {"uid-a": silent(having("a")["a"]), "uid-b": seen()}
    adapter = lora_adapter(replicas=1)
    early = plan(Snapshot(pods, views, [adapter], NOW))
    assert early.actions == ()
    assert early.requeue_at == NOW + UNREACHABLE_BOUND
    assert [(instance.pod.name, instance.state) for instance in early.placements["sql"].instances] == [
        ("a", InstanceState.UNKNOWN)
    ]
    late = plan(Snapshot(pods, views, [adapter], NOW + UNREACHABLE_BOUND))
    assert loaded_by(late) == ["b"]
    assert [instance.state for instance in late.placements["sql"].instances] == [
        InstanceState.UNKNOWN,
        InstanceState.PENDING,
    ]


def test_pod_that_returns_after_its_replacement_frees_one_again() -> None:
    world = fleet(3)
    world.declare(lora_adapter(replicas=1))
    world.settle()
    (first,) = world.holding("sql")
    world.sidecar(first).alive = False
    for _ in range(40):
        world.step()
    assert len(world.holding("sql")) == 2
    world.sidecar(first).alive = True
    world.settle()
    assert len(world.holding("sql")) == 1


def test_takeover_places_nothing_before_every_pod_was_polled() -> None:
    pods = [pod("a", serving=["sql"]), pod("b")]
    decided = plan(Snapshot(pods, {"uid-b": seen()}, [lora_adapter(replicas=1)], NOW))
    assert decided.actions == ()
    assert decided.placements == {}, "nor is a status written from half a look"


def test_unpolled_ready_pod_may_have_it_and_a_starting_one_not() -> None:
    def recorded(unasked: EnginePod) -> list[str]:
        views = {"uid-b": seen()}
        return loaded_by(plan(Snapshot([unasked, pod("b")], views, [lora_adapter(replicas=1)], NOW)))

    assert recorded(pod("a")) == []
    assert recorded(pod("a", ready=False)) == recorded(pod("a", ip=None)) == ["b"]


def test_label_shows_who_had_it_if_its_sidecar_is_silent() -> None:
    pods = [pod("a", serving=["sql"]), pod("b")]
    views = {"uid-a": Observation(None, "gone", unreachable_since=NOW), "uid-b": seen()}
    decided = plan(Snapshot(pods, views, [lora_adapter(replicas=1)], NOW))
    assert decided.actions == ()
    assert [instance.state for instance in decided.placements["sql"].instances] == [InstanceState.UNKNOWN]


def test_rejecting_sidecar_is_passed_over_until_its_retry_time() -> None:
    adapter = lora_adapter(replicas=1)
    first = loaded_by(planned([pod("a"), pod("b")], {"a": seen(), "b": seen()}, adapter))
    rejection = Rejection("The disk is full.", retryable=True, until=NOW + timedelta(seconds=5))
    rejections: dict[tuple[str, Order], Rejection] = {(f"uid-{first[0]}", load_request(adapter)): rejection}
    second = planned([pod("a"), pod("b")], {"a": seen(), "b": seen()}, adapter, rejections=rejections)
    assert set(loaded_by(second)) == {"a", "b"} - set(first)


def test_lack_of_capacity_is_reported_with_a_message() -> None:
    own_report = report(LoadRequest(lora_name="mine", lora_path="/mine"))
    for adapter in (lora_adapter(replicas=1), lora_adapter()):
        decided = planned([pod("a")], {"a": seen(own_report, room=1)}, adapter)
        assert decided.actions == ()
        ready, progressing, degraded = status(adapter, decided.placements["sql"], recorded({}), NOW)["conditions"]
        assert (ready["status"], ready["reason"]) == ("False", "NoCapacity")
        assert progressing["status"] == "False"
        assert degraded["message"].endswith("a: The engine is at its limit of 1 loaded adapter.")


def test_pinned_adapter_displaces_the_newest_that_is_not() -> None:
    world = fleet(1, room=2)
    for index, name in enumerate(("old", "new")):
        world.declare(lora_adapter(name, metadata={"creationTimestamp": f"2026-11-21T0{index}:00:00Z"}))
    world.settle()
    world.declare(lora_adapter("vip", pinned=True))
    decided = world.step()
    assert [(action.pod.name, action.reason) for action in decided.actions if isinstance(action, SetServingLabels)] == [
        ("p0", "new: Preempted by the pinned adapter LoraAdapter/team/vip: the engine is at capacity.")
    ]
    assert "LoraAdapter/team/new, which is not pinned" in decided.placements["vip"].instances[0].message
    world.settle()
    assert world.sidecar("p0").entries.keys() == {"old", "vip"}
    (preempted,) = world.plan().placements["new"].instances
    assert (preempted.state, preempted.reason) == (InstanceState.PENDING, "NoCapacity")


def test_adapters_past_capacity_leave_newest_first_never_working() -> None:
    """What the engine turns out to have no room for is unloaded, the newest first. A loaded adapter stays."""
    adapters = [
        lora_adapter(name, replicas=1, metadata={"creationTimestamp": f"2026-11-21T0{index}:00:00Z"})
        for index, name in enumerate(("works", "older", "newer"))
    ]
    states = (AdapterState.LOADED, AdapterState.PENDING, AdapterState.PENDING)
    reports = [report(load_request(adapter), state) for adapter, state in zip(adapters, states, strict=True)]
    plans = {room: planned([pod("a")], {"a": seen(*reports, room=room)}, *adapters) for room in (1, 2, 3)}
    left = {
        room: [action.request.lora_name for action in decided.actions if isinstance(action, Unload)]
        for room, decided in plans.items()
    }
    assert left == {1: ["older", "newer"], 2: ["newer"], 3: []}


def test_pinned_adapter_stays_in_an_engine_over_its_capacity() -> None:
    plain, pinned = lora_adapter("plain"), lora_adapter("vip", pinned=True)
    reports = [report(load_request(plain)), report(load_request(pinned), AdapterState.PENDING)]
    decided = planned([pod("a")], {"a": seen(*reports, room=1)}, plain, pinned)
    assert [action.request.lora_name for action in decided.actions if isinstance(action, Unload)] == ["plain"]


def test_pinned_adapter_that_failed_elsewhere_evicts_none() -> None:
    world = fleet(2, room=1)
    world.declare(lora_adapter("works", replicas=1))
    world.settle()
    for sidecar in world.sidecars.values():
        sidecar.bad = {source_revision(lora_adapter(uri="file:///bad"))}
    world.declare(lora_adapter("vip", replicas=1, pinned=True, uri="file:///bad"))
    world.settle()
    assert len(world.holding("works")) == 1
    assert [order.request.lora_name for _, _, order in world.orders] == ["works", "vip"]


def test_preempted_adapter_is_not_placed_there_again() -> None:
    vip, preempted = lora_adapter("vip", pinned=True), lora_adapter("sql", replicas=1)
    leaving = report(load_request(preempted), AdapterState.UNLOADING)
    decided = planned([pod("a")], {"a": seen(leaving, room=1)}, vip, preempted)
    assert decided.actions == ()
    assert [instance.reason for instance in decided.placements["vip"].instances] == ["Preempting"]


def test_what_leaves_is_called_back_when_it_is_wanted_again() -> None:
    adapter = lora_adapter(replicas=1)
    leaving = report(load_request(adapter), AdapterState.UNLOADING)
    assert loaded_by(planned([pod("a")], {"a": seen(leaving, room=1)}, adapter)) == ["a"]


def test_unload_waits_a_second_after_the_label_went() -> None:
    views = {"uid-a": having("a")["a"]}
    unlabelled = {("uid-a", "sql"): NOW - timedelta(seconds=0.4)}
    early = plan(Snapshot([pod("a")], views, [lora_adapter(replicas=0)], NOW, unlabelled_at=unlabelled))
    assert early.actions == ()
    assert early.requeue_at == NOW + timedelta(seconds=0.6)
    assert list(unloaded_by(plan(Snapshot([pod("a")], views, [lora_adapter(replicas=0)], NOW)))) == ["a"]


def test_pinned_adapter_evicts_no_pinned_one_and_only_if_needed() -> None:
    """It evicts none where another pod has room."""
    world = fleet(2, room=1)
    world.declare(lora_adapter("first", replicas=1))
    world.settle()
    world.declare(lora_adapter("vip", replicas=1, pinned=True))
    world.settle()
    assert len(world.holding("first")) == len(world.holding("vip")) == 1
    world.declare(lora_adapter("vip2", replicas=1, pinned=True), lora_adapter("vip3", replicas=1, pinned=True))
    world.settle()
    assert len(world.holding("vip")) == len(world.holding("vip2")) == 1
    assert world.holding("vip3") == world.holding("first") == set()


def test_failure_with_a_new_source_is_not_tried_on_other_pods() -> None:
    world = fleet(6)
    for sidecar in world.sidecars.values():
        sidecar.bad = {source_revision(lora_adapter(uri="file:///adapters/v2"))}
    world.declare(lora_adapter(replicas=3))
    world.settle()
    before = world.holding("sql")
    world.orders.clear()
    world.declare(lora_adapter(replicas=3, uri="file:///adapters/v2"))
    world.settle()
    assert world.holding("sql") == before
    assert len(world.orders) == 1


@settings(max_examples=100, deadline=None)
@given(
    pods=st.integers(0, 8),
    replicas=st.integers(0, 8),
    bad=st.sets(st.integers(0, 7)),
    seed=st.integers(0, 1000),
    pace=st.sampled_from((0.4, 1.0)),
)
def test_loadable_adapters_load_and_others_are_tried_boundedly(
    pods: int, replicas: int, bad: set[int], seed: int, pace: float
) -> None:
    world = FleetSimulator(seed, pace)
    refused = {source_revision(lora_adapter())}
    for index in range(pods):
        world.add(pod(f"p{index}", node=f"n{index % 3}"), Sidecar(bad=refused if index in bad else set()))
    world.declare(lora_adapter(replicas=replicas))
    world.settle()
    good = len(set(range(pods)) - bad)
    tried = {name for name, _ in loads(world.orders)}
    assert len(tried) <= replicas + 3
    if len(bad) <= 3:
        assert len(world.holding("sql")) == min(good, replicas)
    if world.holding("sql") and len(world.holding("sql")) == replicas:
        assert all(
            world.sidecar(name).entries["sql"].state is AdapterState.LOADED
            for name in world.pods
            if "sql" in world.sidecar(name).entries
        )


def test_sidecar_that_could_not_be_polled_moves_nothing() -> None:
    adapter = lora_adapter(replicas=1)
    loaded = seen(report(load_request(adapter)))
    unasked = Observation(None, "The operator cannot poll the sidecar.", ever_answered=True, last=loaded.answer)
    views = {"uid-a": unasked, "uid-b": seen()}
    later = NOW + timedelta(minutes=10)
    decided = plan(Snapshot([pod("a", serving=["sql"]), pod("b")], views, [adapter], later))
    assert decided.actions == ()
    assert "sql" not in decided.placements, "its status stays as it is"

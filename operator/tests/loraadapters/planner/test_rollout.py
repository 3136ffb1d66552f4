"""A new source on pods that have an old one: fetched everywhere, switched pod by pod, stopped by the first fault."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.candidates import DRAIN
from patio_operator.loraadapters.planner.credentials import Credentials
from patio_operator.loraadapters.planner.plan import Condition, InstanceState, Load, Plan, Rejection, SetServingLabels
from patio_operator.loraadapters.planner.planner import plan
from patio_operator.loraadapters.planner.selection import load_request, source_revision
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_operator.loraadapters.planner.status import recorded, status
from patio_protocol.adapters import AdapterState, PreparedReport, PreparedState
from patio_testing.operator.builders import NOW, lora_adapter, pod, report, seen
from patio_testing.operator.fleet_simulator import FleetSimulator

OLD, NEW = "s3://bucket/old", "s3://bucket/new"


def declared(uri: str, **spec: Any) -> LoraAdapter:
    return lora_adapter(uri=uri, **spec)


def revision(uri: str) -> str:
    return source_revision(declared(uri))


def world(pods: int = 3, *, seed: int = 0, pace: float = 1.0, **spec: Any) -> FleetSimulator:
    """A world in which `sql` is loaded from the old source everywhere."""
    simulator = FleetSimulator(seed, pace)
    for index in range(pods):
        simulator.add(pod(f"p{index}"))
    simulator.declare(declared(OLD, **spec))
    simulator.settle()
    simulator.orders.clear()
    return simulator


def loads(decided: Plan) -> list[tuple[str, bool]]:
    return [(action.pod.name, action.request.prepare) for action in decided.actions if isinstance(action, Load)]


def unlabelled(decided: Plan) -> list[str]:
    return [action.pod.name for action in decided.actions if isinstance(action, SetServingLabels) and not action.names]


def have(of: FleetSimulator, uri: str) -> set[str]:
    return {name for name in of.holding("sql") if of.sidecar(name).entries["sql"].held == revision(uri)}


def test_new_source_is_fetched_everywhere_before_a_label_goes() -> None:
    fleet = world()
    fleet.declare(declared(NEW))
    first = fleet.step()
    assert loads(first) == [("p0", True), ("p1", True), ("p2", True)]
    assert unlabelled(first) == []
    second = fleet.step()
    assert loads(second) == []
    assert unlabelled(second) == ["p0"]
    third = fleet.step()
    assert loads(third) == [("p0", False)]


def test_one_slow_download_keeps_all_from_switching() -> None:
    fleet = world()
    fleet.declare(declared(NEW))
    fleet.step()
    stuck = fleet.sidecar("p1").entries["sql"]
    assert stuck.prepared is not None
    stuck.prepared = stuck.prepared.model_copy(update={"state": "Downloading"})
    decided = fleet.plan()
    assert decided.actions == ()
    assert "p1 must fetch them before any pod switches" in decided.placements["sql"].instances[0].message


def test_files_that_are_there_already_are_not_fetched() -> None:
    fleet = FleetSimulator()
    for name in ("a", "b"):
        fleet.add(pod(name))
    fleet.declare(declared("file:///adapters/v1"))
    fleet.settle()
    fleet.declare(declared("file:///adapters/v2"))
    assert unlabelled(fleet.step()) == ["a"]


def test_next_pod_waits_until_the_one_before_is_found_again() -> None:
    fleet = world(2)
    fleet.declare(declared(NEW))
    for _ in range(3):
        fleet.step()
    assert have(fleet, NEW) == set()
    while not have(fleet, NEW):
        assert unlabelled(fleet.step()) == []
    labelled = fleet.step()
    assert [(action.pod.name, action.names) for action in labelled.actions if isinstance(action, SetServingLabels)] == [
        ("p0", {"sql"})
    ]
    assert unlabelled(fleet.step()) == ["p1"]


def test_only_pod_switches_with_its_label_on() -> None:
    fleet = world(1)
    fleet.declare(declared(NEW))
    fleet.settle()
    assert have(fleet, NEW) == {"p0"}
    assert [order.reason for _, _, order in fleet.orders][1:] == [
        "switching to the new source; no other pod serves the adapter"
    ]


def test_source_that_one_pod_cannot_fetch_switches_no_pod() -> None:
    fleet = world()
    fleet.sidecar("p1").unfetchable.add(revision(NEW))
    fleet.declare(declared(NEW))
    fleet.settle()
    assert have(fleet, OLD) == {"p0", "p1", "p2"}
    placement = fleet.plan().placements["sql"]
    assert placement.condition is not None
    assert placement.condition.reason == "RolloutStopped"
    assert "p1 could not fetch the new source" in placement.condition.message
    assert "p1: not there" in placement.condition.message
    assert all(fleet.pods[name].serving == {"sql"} for name in fleet.pods)


def test_rejected_source_stops_at_first_pod_which_keeps_old_one() -> None:
    fleet = world(4)
    for sidecar in fleet.sidecars.values():
        sidecar.bad.add(revision(NEW))
    fleet.declare(declared(NEW))
    fleet.settle()
    switched = [name for name in fleet.pods if fleet.sidecar(name).entries["sql"].state is AdapterState.FAILED]
    assert switched == ["p0"]
    assert have(fleet, OLD) == set(fleet.pods)
    assert all(pod.serving == {"sql"} for pod in fleet.pods.values())
    after = status(declared(NEW), fleet.plan().placements["sql"], recorded({}), NOW)
    ready, progressing, degraded = after["conditions"]
    assert (ready["status"], ready["reason"]) == ("False", "RolloutStopped")
    assert (progressing["status"], progressing["reason"]) == ("False", "RolloutStopped")
    assert degraded["status"] == "True"
    assert "p0 failed with the new source. p1, p2, p3 keep the previous weights" in degraded["message"]
    assert "rank 64 is too high" in degraded["message"]
    assert (after["readyReplicas"], after["updatedReplicas"], after["failedReplicas"]) == (3, 0, 1)


def test_change_taken_back_ends_a_stopped_rollout_labels_kept() -> None:
    fleet = world()
    for sidecar in fleet.sidecars.values():
        sidecar.bad.add(revision(NEW))
    fleet.declare(declared(NEW))
    fleet.settle()
    fleet.orders.clear()
    fleet.declare(declared(OLD))
    decided = fleet.step()
    assert {action.pod.name: action.reason for action in decided.actions if isinstance(action, Load)} == {
        "p0": "the engine serves the current source already",
        "p1": "the staged files are no longer needed",
        "p2": "the staged files are no longer needed",
    }
    assert unlabelled(decided) == []
    fleet.settle()
    assert [entry.state for name in fleet.pods for entry in fleet.sidecar(name).entries.values()] == ["Loaded"] * 3


def test_change_taken_back_before_any_switch_leaves_no_files() -> None:
    fleet = world()
    fleet.sidecar("p1").unfetchable.add(revision(NEW))
    fleet.declare(declared(NEW))
    fleet.settle()
    fleet.declare(declared(OLD))
    fleet.settle()
    assert have(fleet, OLD) == fleet.answering("sql") == set(fleet.pods)
    assert all(fleet.sidecar(name).entries["sql"].prepared is None for name in fleet.pods)


def test_switch_taken_back_on_its_way_is_ordered_back_unlabelled() -> None:
    fleet = world(2)
    fleet.declare(declared(NEW))
    while fleet.sidecar("p0").entries["sql"].request.revision != revision(NEW):
        fleet.step()
    fleet.declare(declared(OLD))
    decided = fleet.step()
    assert ("p0", False) in loads(decided)
    assert "sql" not in fleet.pods["p0"].serving, "its label is gone until the pod reports the current source"
    fleet.settle()
    assert have(fleet, OLD) == fleet.answering("sql") == {"p0", "p1"}


def test_only_pod_is_ordered_back_with_its_label_on() -> None:
    fleet = world(1, pace=0.5)
    fleet.declare(declared(NEW))
    while fleet.sidecar("p0").entries["sql"].request.revision != revision(NEW):
        fleet.step()
    fleet.declare(declared(OLD))
    decided = fleet.step()
    assert loads(decided) == [("p0", False)]
    assert unlabelled(decided) == []
    assert fleet.answering("sql") == {"p0"}
    fleet.settle()
    assert have(fleet, OLD) == fleet.answering("sql") == {"p0"}


def test_third_source_goes_on_where_the_second_stopped() -> None:
    fleet = world()
    for sidecar in fleet.sidecars.values():
        sidecar.bad.add(revision(NEW))
    fleet.declare(declared(NEW))
    fleet.settle()
    fleet.declare(declared("s3://bucket/third"))
    fleet.settle()
    assert have(fleet, "s3://bucket/third") == set(fleet.pods)


def test_where_nothing_answers_there_is_nothing_to_protect() -> None:
    fleet = FleetSimulator()
    for name in ("a", "b"):
        fleet.add(pod(name))
        fleet.sidecar(name).bad.add(revision(OLD))
    fleet.declare(declared(OLD))
    fleet.settle()
    fleet.declare(declared(NEW))
    assert loads(fleet.step()) == [("a", False), ("b", False)]


def test_silent_sidecar_counts_as_one_that_is_unavailable() -> None:
    fleet = world(3)
    fleet.sidecar("p2").alive = False
    fleet.declare(declared("file:///adapters/new"))
    decided = fleet.step()
    assert unlabelled(decided) == []
    assert "maxUnavailable is 1 and pod p2 is not available yet" in decided.placements["sql"].instances[0].message


def test_pod_that_is_not_ready_is_switched_first() -> None:
    fleet = world(3, maxUnavailable=2)
    fleet.sidecar("p1").crash()
    fleet.step()
    fleet.declare(declared("file:///adapters/new", maxUnavailable=2))
    decided = fleet.step()
    assert loads(decided) == [("p1", False)]
    assert unlabelled(decided) == ["p0"]


def test_pods_with_the_old_weights_are_loaded_and_not_updated() -> None:
    fleet = world()
    fleet.declare(declared(NEW))
    instances = fleet.step().placements["sql"].instances
    assert {(instance.state, instance.reason, instance.updated) for instance in instances} == {
        (InstanceState.LOADED, "Outdated", False)
    }


@settings(max_examples=150, deadline=None)
@given(
    pods=st.integers(1, 6),
    most=st.integers(1, 4),
    replicas=st.one_of(st.none(), st.integers(1, 6)),
    seed=st.integers(0, 10_000),
    pace=st.sampled_from((0.3, 0.6, 1.0)),
    uris=st.lists(st.sampled_from((NEW, "file:///adapters/x", "s3://bucket/y")), min_size=1, max_size=2),
)
def test_at_most_max_unavailable_are_away_and_one_always_serves(
    pods: int, most: int, replicas: int | None, seed: int, pace: float, uris: list[str]
) -> None:
    fleet = world(pods, seed=seed, pace=pace, maxUnavailable=most, replicas=replicas)
    holding = len(fleet.holding("sql"))
    for uri in uris:
        fleet.declare(declared(uri, maxUnavailable=most, replicas=replicas))
        for _ in range(200):
            decided = fleet.step()
            found = fleet.answering("sql")
            assert len(found) >= max(1, holding - most)
            if not decided.actions and have(fleet, uri) == found == fleet.holding("sql") and len(found) == holding:
                break
        else:
            pytest.fail(f"{decided}")


@settings(max_examples=150, deadline=None)
@given(
    pods=st.integers(2, 6),
    most=st.integers(1, 3),
    bad=st.sets(st.integers(0, 5), min_size=1),
    seed=st.integers(0, 10_000),
    pace=st.sampled_from((0.4, 1.0)),
)
def test_bad_source_reaches_no_more_than_max_unavailable_pods(
    pods: int, most: int, bad: set[int], seed: int, pace: float
) -> None:
    fleet = world(pods, seed=seed, pace=pace, maxUnavailable=most)
    for index in bad:
        if index < pods:
            fleet.sidecar(f"p{index}").bad.add(revision(NEW))
    fleet.declare(declared(NEW, maxUnavailable=most))
    fleet.settle()
    failed = [name for name in fleet.pods if fleet.sidecar(name).entries["sql"].state is AdapterState.FAILED]
    assert len(failed) <= most
    assert have(fleet, OLD) | have(fleet, NEW) == set(fleet.pods) == fleet.answering("sql")
    assert bool(failed) != (have(fleet, NEW) == set(fleet.pods))


def test_pod_switches_a_second_after_its_label_went() -> None:
    pods = [pod("a"), pod("b", serving=["sql"])]
    old, new = declared("file:///v1"), declared("file:///v2")
    views = {pod.uid: seen(report(load_request(old))) for pod in pods}
    unlabelled = {("uid-a", "sql"): NOW - timedelta(seconds=0.4)}
    early = plan(Snapshot(pods, views, [new], NOW, unlabelled_at=unlabelled))
    assert early.actions == ()
    assert early.requeue_at == NOW + timedelta(seconds=0.6)
    assert loads(plan(Snapshot(pods, views, [new], NOW + timedelta(seconds=0.6), unlabelled_at=unlabelled))) == [
        ("a", False)
    ]


def test_of_two_pods_the_second_waits_however_many_may_be_away() -> None:
    fleet = world(2, maxUnavailable=2)
    fleet.declare(declared("file:///adapters/new", maxUnavailable=2))
    assert unlabelled(fleet.step()) == ["p0"]
    assert loads(fleet.step()) == [("p0", False)]
    assert loads(fleet.step()) == []


def test_unavailable_pods_switch_at_most_max_unavailable_at_once() -> None:
    fleet = world(3)
    for name in ("p0", "p1"):
        fleet.sidecar(name).crash()
    fleet.step()
    fleet.declare(declared("file:///adapters/new"))
    assert loads(fleet.step()) == [("p0", False)]


def test_pod_without_old_weights_stays_while_rollout_is_stopped() -> None:
    fleet = world(4, replicas=2)
    fleet.declare(declared(NEW, replicas=2))
    for sidecar in fleet.sidecars.values():
        sidecar.bad.add(revision(NEW))
    fleet.settle()
    (failed,) = [
        name for name in fleet.holding("sql") if fleet.sidecar(name).entries["sql"].state is AdapterState.FAILED
    ]
    fleet.orders.clear()
    fleet.sidecar(failed).entries["sql"].held = None
    fleet.settle()
    assert fleet.orders == []


def test_sidecar_that_rejects_the_order_to_fetch_is_named() -> None:
    new = declared(NEW)
    prepare = load_request(new).model_copy(update={"prepare": True})
    engine_pod = pod(serving=["sql"])
    views = {engine_pod.uid: seen(report(load_request(declared(OLD))))}
    rejection = Rejection("prepare is not known", retryable=False, until=NOW + timedelta(seconds=60))
    decided = plan(Snapshot([engine_pod], views, [new], NOW, rejections={(engine_pod.uid, prepare): rejection}))
    assert decided.actions == ()
    assert decided.placements["sql"].condition == Condition("SidecarRejected", "pod-0: prepare is not known")


@pytest.mark.parametrize(
    ("serving", "unlabelled", "ordered"),
    [((), {}, True), (("sql",), {}, False), ((), {("uid-p0", "sql"): NOW}, False)],
)
def test_pod_wanted_again_switches_only_without_requests(
    serving: tuple[str, ...], unlabelled: dict[tuple[str, str], datetime], ordered: bool
) -> None:
    going = report(load_request(declared(OLD)), AdapterState.UNLOADING, held=revision(OLD))
    decided = plan(
        Snapshot([pod("p0", serving=serving)], {"uid-p0": seen(going)}, [declared(NEW)], NOW, unlabelled_at=unlabelled)
    )
    assert any(isinstance(action, Load) for action in decided.actions) == ordered
    assert (
        ordered
        or decided.requeue_at is not None
        or any(isinstance(action, SetServingLabels) for action in decided.actions)
    )


def test_engine_that_restarts_gets_a_new_source_without_requests() -> None:
    restarting = seen(report(load_request(declared(OLD)), AdapterState.PENDING))

    def actions(serving: tuple[str, ...], unlabelled: dict[tuple[str, str], datetime]) -> list[type]:
        pods = [pod("p0", serving=serving)]
        return [
            type(action)
            for action in plan(
                Snapshot(pods, {"uid-p0": restarting}, [declared(NEW)], NOW, unlabelled_at=unlabelled)
            ).actions
        ]

    assert actions(("sql",), {}) == [SetServingLabels], "it may answer from the old one again by now"
    assert actions((), {("uid-p0", "sql"): NOW}) == []
    assert actions((), {}) == [Load]


def test_pod_labelled_without_the_adapter_loses_its_label_first() -> None:
    # Its report may be older than what it has by now.
    def actions(serving: tuple[str, ...]) -> list[type]:
        return [
            type(action)
            for action in plan(Snapshot([pod("p0", serving=serving)], {"uid-p0": seen()}, [declared(NEW)], NOW)).actions
        ]

    assert actions(("sql",)) == [SetServingLabels]
    assert actions(()) == [Load]


def taken_back(serving: tuple[str, ...], unlabelled_at: dict[tuple[str, str], datetime]) -> Plan:
    """p0 is at the new source, which is not declared any more; p1 serves the old one."""
    pods = [pod("p0", serving=serving), pod("p1", serving=["sql"])]
    views = {
        "uid-p0": seen(report(load_request(declared(NEW)), AdapterState.LOADING, held=revision(OLD))),
        "uid-p1": seen(report(load_request(declared(OLD)))),
    }
    return plan(Snapshot(pods, views, [declared(OLD)], NOW, unlabelled_at=unlabelled_at))


def test_switch_taken_back_removes_the_label_before_the_order() -> None:
    labelled = taken_back(("sql",), {})
    assert (unlabelled(labelled), loads(labelled)) == (["p0"], [])
    assert "the order to keep this source follows" in labelled.placements["sql"].instances[0].message
    draining = taken_back((), {("uid-p0", "sql"): NOW})
    assert (unlabelled(draining), loads(draining)) == ([], [])
    assert draining.requeue_at == NOW + DRAIN
    assert loads(taken_back((), {})) == [("p0", False)]


def test_new_source_without_its_secret_switches_no_pod() -> None:
    private = lora_adapter(source={"uri": NEW, "secretRef": {"name": "keys"}})
    views = {"uid-p0": seen(report(load_request(declared(OLD))))}
    missing = Condition("SecretNotFound", "Secret keys does not exist.")
    decided = plan(Snapshot([pod("p0", serving=["sql"])], views, [private], NOW, credentials={"sql": missing}))
    assert decided.actions == ()
    assert decided.placements["sql"].condition == missing


def test_files_that_lack_credentials_are_ordered_again() -> None:
    private = lora_adapter(source={"uri": NEW, "secretRef": {"name": "keys"}})
    lacking = PreparedReport(
        revision=source_revision(private),
        state=PreparedState.PENDING,
        reason="CredentialsMissing",
        credentials_revision="7",
    )
    views = {"uid-p0": seen(report(load_request(declared(OLD)), prepared=lacking))}
    credentials = {"sql": Credentials("7")}
    decided = plan(Snapshot([pod("p0", serving=["sql"])], views, [private], NOW, credentials=credentials))
    (order,) = [action for action in decided.actions if isinstance(action, Load)]
    assert (order.request.prepare, order.reason) == (True, "the sidecar has no credentials for the new files")


def test_sidecar_that_rejects_the_switch_is_not_asked_again_yet() -> None:
    old, new = declared("file:///v1"), declared("file:///v2")
    pods = [pod("p0"), pod("p1", serving=["sql"])]
    views = {each.uid: seen(report(load_request(old))) for each in pods}
    rejection = Rejection("the disk is full", retryable=True, until=NOW + timedelta(seconds=30))
    decided = plan(Snapshot(pods, views, [new], NOW, rejections={("uid-p0", load_request(new)): rejection}))
    assert loads(decided) == []
    assert "the disk is full" in decided.placements["sql"].instances[0].message

"""What a changed profile rolls, in which order, when it stops, and what its status says of that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_api import rollout_annotations
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_api.rolebasedgroup import RoleBasedGroup
from patio_operator.pods.profile_use import WorkloadRef, use_of
from patio_operator.profiles.planner.consumers import ProfilePod, pods_with
from patio_operator.profiles.planner.planner import Plan, plan, workloads_to_read
from patio_operator.profiles.planner.roles import decode_role, group_patch, role_of
from patio_operator.profiles.planner.snapshot import Snapshot
from patio_operator.profiles.planner.workloads import Workload, decode, template_patch
from patio_operator.profiles.validation import DryRunResult, InvalidField
from patio_testing.operator.builders import NOW

Object = dict[str, Any]

OLD, NEW = "0ld", "n3w"
A, B = WorkloadRef("Deployment", "team", "a"), WorkloadRef("StatefulSet", "team", "b")


def profile(*, strategy: str = "RollingUpdate", status: Object | None = None, at_once: str = "1") -> Any:
    metadata = {"name": "patio", "generation": 2, "annotations": {"patio.dev/roll-at-once": at_once}}
    body = {"metadata": metadata, "spec": {"updateStrategy": strategy}, "status": status or {}}
    return ClusterEngineRuntimeProfile.model_validate(body)


def user(workload: WorkloadRef | None, revision: str = OLD, *, made_by: str = "") -> ProfilePod:
    return ProfilePod(
        "team", f"pod-of-{workload}", revision, workload, made_by or (workload.kind if workload else "Pod")
    )


def workload(ref: WorkloadRef, *, marked: str = "", **changes: Any) -> Workload:
    return Workload(ref, "1", {"patio": marked} if marked else {}, **changes)


def planned(
    users: Sequence[ProfilePod],
    *workloads: Workload,
    of: Any = None,
    verdict: DryRunResult | None = None,
    later: int = 0,
) -> Plan:
    """Plan for the current revision NEW, `later` seconds after the start."""
    now = NOW + timedelta(seconds=later)
    found = {workload.ref: workload for workload in workloads}
    return plan(Snapshot(of or profile(), NEW, verdict or DryRunResult(), users, found, now))


def rolls(of: Plan) -> list[WorkloadRef]:
    return [roll.workload.ref for roll in of.rolls]


def reason(of: Plan) -> str:
    return next(str(condition["reason"]) for condition in of.status["conditions"] if condition["type"] == "RolledOut")


def message(of: Plan) -> str:
    return next(str(condition["message"]) for condition in of.status["conditions"] if condition["type"] == "RolledOut")


# --- which workload is rolled


def test_one_workload_is_rolled_at_a_time() -> None:
    first = planned([user(B), user(A)], workload(B), workload(A))
    assert rolls(first) == [A]
    second = planned([user(B), user(A)], workload(B), workload(A, marked=NEW, is_up=False))
    assert rolls(second) == []
    assert reason(second) == "Rolling"
    third = planned([user(B), user(A, NEW)], workload(B))
    assert rolls(third) == [B]


def test_one_that_is_not_yet_available_holds_the_next_one_up() -> None:
    before = planned([user(A), user(B)], workload(A), workload(B)).status
    after = planned(
        [user(A, NEW), user(B)], workload(A, marked=NEW, is_up=False), workload(B), of=profile(status=before)
    )
    assert rolls(after) == []
    assert workloads_to_read(profile(status=before), NEW, [user(A, NEW), user(B, NEW)]) == [A]


def test_profile_may_say_how_many_at_once() -> None:
    three = [workload(WorkloadRef("Deployment", "team", name)) for name in "cab"]
    users = [user(workload.ref) for workload in three]
    assert [ref.name for ref in rolls(planned(users, *three, of=profile(at_once="2")))] == ["a", "b"]
    assert len(rolls(planned(users, *three, of=profile(at_once="nonsense")))) == 1


def test_rolled_workload_keeps_the_revisions_of_other_profiles() -> None:
    (roll,) = planned([user(A)], Workload(A, "1", {"gpu": "x", "patio": OLD})).rolls
    assert roll.rolled == {"gpu": "x", "patio": NEW}
    patch = template_patch(roll.rolled)
    assert rollout_annotations.of_template(patch["spec"]["template"]["metadata"]) == roll.rolled


def test_workloads_that_are_up_come_before_those_that_are_not() -> None:
    assert rolls(planned([user(A), user(B)], workload(A, is_up=False), workload(B))) == [B]


def test_pods_that_nothing_rolls_are_left_and_counted() -> None:
    users = [user(None), user(None, made_by="Job"), user(None, made_by="Job"), user(A, NEW)]
    result = planned(users)
    assert result.rolls == ()
    assert reason(result) == "PartiallyRolledOut"
    assert "3 of 4 pods" in message(result)
    assert "2 managed by a Job, 1 not managed by a controller" in message(result)


def test_workload_not_to_be_rolled_is_left_and_blocks_none() -> None:
    result = planned([user(A), user(B)], workload(A, held="it is paused"), workload(B))
    assert rolls(result) == [B]
    done = planned([user(A)], workload(A, held="it is paused"))
    assert "1 of Deployment team/a (it is paused)" in message(done)
    stuck = planned([user(A), user(B)], workload(A, marked=NEW, is_up=False, held="it is paused"), workload(B))
    assert rolls(stuck) == [B]


def test_workload_is_never_rolled_twice_for_one_revision() -> None:
    result = planned([user(A)], workload(A, marked=NEW))
    assert result.rolls == ()
    assert "restart it" in message(result)


# --- when nothing is rolled


def test_no_update_rolls_nothing_and_says_how_many_are_behind() -> None:
    result = planned([user(A), user(A, NEW)], of=profile(strategy="NoUpdate"))
    assert result.rolls == ()
    assert reason(result) == "NoUpdate"
    assert (result.status["pods"], result.status["currentPods"], result.status["behindPods"]) == (2, 1, 1)
    assert workloads_to_read(profile(strategy="NoUpdate"), NEW, [user(A)]) == []


def test_profile_that_no_pod_can_have_rolls_nothing() -> None:
    wrong = DryRunResult((InvalidField("spec.containers[0].image", "Required value"),))
    result = planned([user(A)], workload(A), verdict=wrong)
    assert result.rolls == ()
    assert "spec.containers[0].image: Required value" in result.status["lastError"]
    assert [(event.type, event.reason) for event in result.events] == [("Warning", "Rejected")]
    again = planned([user(A)], workload(A), verdict=wrong, of=profile(status=result.status), later=60)
    assert again.status == result.status
    assert again.events == ()


def test_profile_that_could_not_be_tried_is_rolled_and_retried() -> None:
    result = planned([user(A)], workload(A), verdict=DryRunResult(not_possible="forbidden"))
    assert rolls(result) == [A]
    assert result.requeue_at is not None


# --- when a workload does not become ready


def test_workload_that_is_not_up_stops_the_rollout_until_it_is() -> None:
    users = [user(A), user(B)]
    started = planned(users, workload(A), workload(B)).status
    broken = workload(A, marked=NEW, is_up=False, failure="deadline exceeded", has_deadline=True)
    stopped = planned(users, broken, workload(B), of=profile(status=started, at_once="5"))
    assert stopped.rolls == ()
    assert reason(stopped) == "Stopped"
    assert "Deployment team/a did not become ready: deadline exceeded" in stopped.status["lastError"]
    assert [(event.type, event.reason) for event in stopped.events] == [("Warning", "Stopped")]
    better = planned([user(A, NEW), user(B)], workload(A, marked=NEW), workload(B), of=profile(status=stopped.status))
    assert rolls(better) == [B]
    assert [(event.type, event.reason) for event in better.events] == [("Normal", "Resumed")]
    assert "lastError" not in better.status


def test_next_change_of_a_profile_goes_first_to_the_one_not_up() -> None:
    users = [user(A), user(B)]
    started = planned(users, workload(A, is_up=False), workload(B)).status  # B is up, so it was first
    result = planned(users, workload(A), workload(B, marked=OLD, is_up=False), of=profile(status=started))
    assert rolls(result) == [B]


def test_stateful_set_stuck_for_ten_minutes_stops_the_rollout() -> None:
    coming = workload(B, marked=NEW, is_up=False, progress=3)
    first = planned([user(B)], coming)
    assert reason(planned([user(B)], coming, of=profile(status=first.status), later=599)) == "Rolling"
    late = planned([user(B)], coming, of=profile(status=first.status), later=661)
    assert reason(late) == "Stopped"
    assert "delete that pod" in message(late)
    moved = workload(B, marked=NEW, is_up=False, progress=4)
    assert reason(planned([user(B)], moved, of=profile(status=first.status), later=661)) == "Rolling"


def test_deployment_has_a_deadline_of_its_own() -> None:
    coming = workload(A, marked=NEW, is_up=False, has_deadline=True)
    first = planned([user(A)], coming)
    assert reason(planned([user(A)], coming, of=profile(status=first.status), later=3600)) == "Rolling"


# --- the status


def test_status_that_has_not_changed_is_the_same_later() -> None:
    users, coming = [user(A), user(A, NEW)], workload(A, marked=NEW, is_up=False)
    first = planned(users, coming).status
    assert planned(users, coming, of=profile(status=first), later=30).status == first


def test_what_is_whole_says_so() -> None:
    result = planned([user(A, NEW)])
    assert (reason(result), result.requeue_at) == ("UpToDate", None)
    assert message(planned([])) == f"No pod has this profile. The profile has revision {NEW}."


refs = st.sampled_from([WorkloadRef(kind, "team", name) for kind in ("Deployment", "StatefulSet") for name in "abc"])


@given(
    st.lists(st.tuples(refs, st.sampled_from([OLD, NEW]))),
    st.dictionaries(refs, st.tuples(st.sampled_from(["", OLD, NEW]), st.booleans(), st.sampled_from(["", "bad"]))),
    st.integers(1, 3),
)
def test_never_more_are_down_than_may_be(
    pods: list[tuple[WorkloadRef, str]], states: Mapping[WorkloadRef, tuple[str, bool, str]], at_once: int
) -> None:
    users = [user(ref, revision) for ref, revision in pods]
    workloads = [
        workload(ref, marked=marked, is_up=is_up, failure="" if is_up else failure)
        for ref, (marked, is_up, failure) in states.items()
    ]
    result = planned(users, *workloads, of=profile(at_once=str(at_once)))
    down = [workload for workload in workloads if workload.rolled.get("patio") == NEW and not workload.is_up]
    assert len(result.rolls) <= max(at_once - len(down), 0)
    assert all(any(ref == pod and revision == OLD for pod, revision in pods) for ref in rolls(result))
    if any(workload.failure for workload in down):
        assert result.rolls == ()
    assert result.status["currentPods"] + result.status["behindPods"] == result.status["pods"] == len(pods)


# --- reading pods and workloads


def pod(name: str, owner: Object | None = None, *, revisions: Any = None, labels: Object | None = None) -> Object:
    metadata: Object = {"name": name, "namespace": "team", "labels": labels or {}}
    metadata["annotations"] = {"patio.dev/injected": json.dumps({"patio": OLD} if revisions is None else revisions)}
    if owner is not None:
        metadata["ownerReferences"] = [owner | {"controller": True}]
    return {"metadata": metadata}


@pytest.mark.parametrize(
    ("owner", "labels", "expected"),
    [
        (
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6f7"},
            {"pod-template-hash": "6f7"},
            WorkloadRef("Deployment", "team", "web"),
        ),
        ({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6f7"}, {}, None),
        (
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web"},
            {},
            WorkloadRef("StatefulSet", "team", "web"),
        ),
        ({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web"}, {}, WorkloadRef("DaemonSet", "team", "web")),
        ({"apiVersion": "batch/v1", "kind": "Job", "name": "web"}, {}, None),
        ({"apiVersion": "apps.kruise.io/v1beta1", "kind": "StatefulSet", "name": "web"}, {}, None),
        (None, {}, None),
    ],
)
def test_pod_is_its_workloads(owner: Object | None, labels: Object, expected: WorkloadRef | None) -> None:
    (found,) = pods_with("patio", [use_of(pod("web-0", owner, labels=labels)["metadata"])])
    assert found.workload == expected
    assert found.revision == OLD


def test_pods_of_other_profiles_or_terminating_are_not_counted() -> None:
    going = pod("going")
    going["metadata"]["deletionTimestamp"] = "2026-11-21T12:00:00Z"
    odd = pod("odd")
    odd["metadata"]["annotations"]["patio.dev/injected"] = "{"
    pods = [going, pod("other", revisions={"gpu": OLD}), odd, {"metadata": {"name": "x"}}]
    assert pods_with("patio", [use_of(pod["metadata"]) for pod in pods]) == []


def deployment(*, spec: Object | None = None, **status: Any) -> Object:
    metadata = {"name": "a", "namespace": "team", "generation": 3, "resourceVersion": "7"}
    counts = {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    return {"metadata": metadata, "spec": {"replicas": 2} | (spec or {}), "status": counts | status}


@pytest.mark.parametrize(
    ("status", "is_up"),
    [
        ({}, True),
        ({"observedGeneration": 2}, False),
        ({"updatedReplicas": 1}, False),
        ({"availableReplicas": 1}, False),
        ({"replicas": 3}, False),
    ],
)
def test_deployment_is_up_if_all_its_pods_are_new_and_available(status: Object, is_up: bool) -> None:
    assert decode("Deployment", deployment(**status)).is_up is is_up


def test_deployment_reports_why_it_is_not_ready() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too late"}
    refused = {"type": "ReplicaFailure", "status": "True", "message": "admission webhook denied the request"}
    assert decode("Deployment", deployment(conditions=[late])).failure == "too late"
    assert "denied" in decode("Deployment", deployment(conditions=[refused, late])).failure
    assert decode("Deployment", deployment(conditions=[late], observedGeneration=2)).failure == "", (
        "of the old template"
    )


def test_partition_keeps_pods_and_the_rest_is_rolled() -> None:
    keeps = {"updateStrategy": {"rollingUpdate": {"partition": 1}}}
    assert decode("StatefulSet", deployment(spec=keeps, updatedReplicas=1)).is_up
    keeps = {"updateStrategy": {"rollingUpdate": {"partition": 2}}}
    assert decode("StatefulSet", deployment(spec=keeps)).held == "its partition excludes every pod"


def test_daemon_set_is_counted_by_nodes() -> None:
    body = deployment(desiredNumberScheduled=3, updatedNumberScheduled=3, numberAvailable=2)
    assert not decode("DaemonSet", body).is_up
    assert decode("DaemonSet", deployment(desiredNumberScheduled=3, updatedNumberScheduled=3, numberAvailable=3)).is_up


@pytest.mark.parametrize(
    ("spec", "why"),
    [({"paused": True}, "it is paused"), ({"updateStrategy": {"type": "OnDelete"}}, "its updateStrategy is OnDelete")],
)
def test_strategy_that_replaces_nothing_is_respected(spec: Object, why: str) -> None:
    assert decode("StatefulSet", deployment(spec=spec)).held == why


@pytest.mark.parametrize(
    ("kind", "applied_by", "why"),
    [
        ("LeaderWorkerSet", [], "it is controlled by LeaderWorkerSet g"),
        ("RoleBasedGroup", ["rbg"], "it is controlled by RoleBasedGroup g"),
        ("RoleBasedGroup", ["patio-operator"], ""),
    ],
)
def test_what_another_controller_makes_is_its_to_roll(kind: str, applied_by: list[str], why: str) -> None:
    body = deployment()
    body["metadata"]["ownerReferences"] = [{"kind": kind, "name": "g", "controller": True}]
    body["metadata"]["managedFields"] = [{"manager": manager, "operation": "Apply"} for manager in applied_by]
    assert decode("StatefulSet", body).held == why


# --- leader-worker roles, whose pods Patio makes itself

ROLE = WorkloadRef("RoleBasedGroup", "team", "g/multi")


def leader(revision: str, rolled_for: str) -> ProfilePod:
    return ProfilePod("team", "leader", revision, ROLE, "RoleBasedGroup", rolled_for)


def role_body(*, marked: str = "", replicas: int = 2, ready: int = 2) -> Object:
    annotations = {"patio.dev/rolled-roles": json.dumps({"multi": {"patio": marked}, "other": {"x": "1"}})}
    pattern = {"size": 2, "template": {"spec": {"containers": [{"name": "main", "image": "a"}]}}}
    return {
        "metadata": {"name": "g", "namespace": "team", "resourceVersion": "7", "annotations": annotations},
        "spec": {"roles": [{"name": "multi", "replicas": replicas, "leaderWorkerPattern": pattern}]},
        "status": {
            "roleStatuses": [{"name": "multi", "replicas": ready, "readyReplicas": ready, "updatedReplicas": ready}]
        },
    }


def role(users: Sequence[ProfilePod], *, spared: int = 0, held: str = "", **body: Any) -> Workload:
    group = RoleBasedGroup.model_validate(role_body(**body))
    found = role_of(group, ROLE)
    assert found is not None
    return decode_role(ROLE, group, found, "patio", users, spared, held)


def test_pod_controlled_by_a_group_is_of_its_leader_worker_role() -> None:
    metadata = {
        "name": "g-multi-0-0",
        "namespace": "team",
        "labels": {"rbg.workloads.x-k8s.io/group-name": "g", "rbg.workloads.x-k8s.io/role-name": "multi"},
        "annotations": {
            "patio.dev/injected": json.dumps({"patio": NEW}),
            "patio.dev/rolled-profiles": json.dumps({"patio": NEW}),
        },
        "ownerReferences": [
            {"apiVersion": "workloads.x-k8s.io/v1alpha2", "kind": "RoleBasedGroup", "name": "g", "controller": True}
        ],
    }
    (found,) = pods_with("patio", [use_of(metadata)])
    assert (found.workload, found.revision, found.rolled_for) == (ROLE, NEW, NEW)


def test_role_is_rolled_by_a_mark_in_its_group_beside_others() -> None:
    behind = [leader(OLD, ""), leader(OLD, "")]
    (roll,) = planned(behind, role(behind)).rolls
    patch = group_patch(ROLE, role_body()["metadata"], roll.rolled)
    metadata = {"annotations": patch["metadata"]["annotations"]}
    assert rollout_annotations.of_role(metadata, "multi") == {"patio": NEW}
    assert rollout_annotations.of_role(metadata, "other") == {"x": "1"}


def test_marked_role_is_rolling_until_its_new_leaders_are_ready() -> None:
    histories = (
        ([leader(OLD, ""), leader(OLD, "")], 2, "Rolling"),
        ([leader(OLD, "")], 1, "Rolling"),
        ([leader(OLD, ""), leader(NEW, NEW)], 1, "Rolling"),
        ([leader(NEW, NEW), leader(NEW, NEW)], 1, "Rolling"),
        ([leader(NEW, NEW), leader(NEW, NEW)], 2, "UpToDate"),
    )
    for users, ready, expected in histories:
        seen = planned(users, role(users, marked=NEW, ready=ready))
        assert seen.rolls == ()
        assert reason(seen) == expected


def test_instances_spared_by_a_rollout_do_not_block_and_count() -> None:
    users = [leader(OLD, ""), leader(NEW, NEW)]
    seen = planned(users, role(users, marked=NEW, spared=1))
    assert reason(seen) == "PartiallyRolledOut"
    assert "partition excludes every pod" in message(planned(users, role(users, spared=2)))


def test_roles_of_upstream_are_counted_and_left_alone() -> None:
    users = [leader(OLD, "")]
    seen = planned(users, role(users, held="it is upstream's controller's"))
    assert seen.rolls == ()
    assert "upstream's controller's" in message(seen)


def test_end_of_a_rollout_is_an_event() -> None:
    rolling = planned([user(A), user(A, NEW)], workload(A, marked=NEW, is_up=False))
    assert reason(rolling) == "Rolling"
    done = planned([user(A, NEW), user(A, NEW)], workload(A, marked=NEW), of=profile(status=rolling.status))
    assert [(event.type, event.reason) for event in done.events] == [("Normal", "Rolled")]
    assert planned([user(A, NEW)], workload(A, marked=NEW), of=profile(status=done.status)).events == ()


def test_deployment_that_does_not_move_stops_without_a_remedy() -> None:
    coming = workload(A, marked=NEW, is_up=False)
    first = planned([user(A)], coming)
    late = planned([user(A)], coming, of=profile(status=first.status), later=661)
    assert reason(late) == "Stopped"
    assert "no further pod has become ready since" in message(late)
    assert "delete that pod" not in message(late)

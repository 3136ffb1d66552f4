"""Leader-worker roles: what docs/concepts/rolebasedgroup.md promises of their pods, lived through pass by pass."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from patio_api.rolebasedgroup import RestartPolicyConfig
from patio_operator.groups.planner.restart_state import RestartState, read, recreated, write
from patio_testing.operator.group_simulator import GRACE, NEW, OLD, START, GroupSimulator, a_group, leader_worker


def settled(*roles: dict[str, Any]) -> GroupSimulator:
    world = GroupSimulator(*roles)
    world.settle()
    return world


def env(pod: dict[str, Any]) -> dict[str, Any]:
    return {
        variable["name"]: variable.get("value", variable.get("valueFrom"))
        for variable in pod["spec"]["containers"][0]["env"]
    }


def label(key: str) -> dict[str, Any]:
    return {"fieldRef": {"fieldPath": f"metadata.labels['{NEW}{key}']"}}


# --- names, labels, variables


def test_instance_is_a_leader_and_its_workers() -> None:
    world = settled(leader_worker(replicas=2, size=3))
    assert list(world.pods()) == [f"g-multi-{index}-{position}" for index in range(2) for position in range(3)]
    assert world.status["roleStatuses"] == [{"name": "multi", "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2}]
    assert world.status["conditions"][0]["reason"] == "AllRolesReady"


def test_every_pod_has_its_place_in_its_labels() -> None:
    pod = settled(leader_worker(replicas=2, size=3)).pods()["g-multi-1-2"]
    own = pod["metadata"]["labels"]
    assert {key: own[NEW + key] for key in ("role-instance-name", "role-instance-index")} == {
        "role-instance-name": "g-multi-1",
        "role-instance-index": "1",
    }
    assert (own[NEW + "component-name"], own[NEW + "component-index"], own[NEW + "component-id"]) == (
        "worker",
        "2",
        "1",
    )
    assert own[NEW + "component-size"] == "3"
    assert (own[OLD + "name"], own[OLD + "role"]) == ("g", "multi")
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("RoleBasedGroup", "g", True)


def test_containers_know_their_leader_in_both_variable_families() -> None:
    variables = env(settled(leader_worker(size=3)).pods()["g-multi-0-1"])
    for leader, worker, size in (
        ("RBG_LWP_LEADER_ADDRESS", "RBG_LWP_WORKER_INDEX", "RBG_LWP_GROUP_SIZE"),
        ("LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX", "LWS_GROUP_SIZE"),
    ):
        assert variables[leader] == "$(RBG_ROLE_INSTANCE_NAME)-0.s-g-multi.team"
        assert variables[worker] == label("component-index")
        assert variables[size] == "3"
    names = list(variables)
    assert names.index("RBG_ROLE_INSTANCE_NAME") < names.index("RBG_LWP_LEADER_ADDRESS")
    assert variables["RBG_ROLE_INDEX"] == variables["ROLE_INDEX"] == label("role-instance-index")
    assert (variables["RBG_COMPONENT_NAME"], variables["RBG_COMPONENT_INDEX"]) == ("worker", label("component-id"))


def test_by_default_only_leaders_have_a_dns_name() -> None:
    world = settled(leader_worker())
    leader, worker = world.pods()["g-multi-0-0"]["spec"], world.pods()["g-multi-0-1"]["spec"]
    assert (leader["hostname"], leader["subdomain"]) == ("g-multi-0-0", "s-g-multi")
    assert "hostname" not in worker
    assert "subdomain" not in worker
    service = world.objects["Service", "s-g-multi"]
    assert service["spec"]["selector"][NEW + "component-name"] == "leader"


@pytest.mark.parametrize(
    "role",
    [
        leader_worker(pattern={"sharedServiceSelection": "All"}),
        leader_worker(annotations={NEW + "role-workload-type": "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet"}),
    ],
)
def test_workers_have_dns_names_if_role_or_upstream_says_so(role: dict[str, Any]) -> None:
    world = settled(role)
    worker = world.pods()["g-multi-0-1"]["spec"]
    assert (worker["hostname"], worker["subdomain"]) == ("g-multi-0-1", "s-g-multi")
    assert NEW + "component-name" not in world.objects["Service", "s-g-multi"]["spec"]["selector"]


def test_leader_is_also_reached_by_the_name_of_its_instance() -> None:
    world = settled(leader_worker(replicas=2))
    addresses = world.objects["EndpointSlice", "s-g-multi-leaders"]
    assert addresses["metadata"]["labels"]["kubernetes.io/service-name"] == "s-g-multi"
    assert [(endpoint["hostname"], endpoint["addresses"]) for endpoint in addresses["endpoints"]] == [
        (f"g-multi-{index}", [world.pods()[f"g-multi-{index}-0"]["status"]["podIP"]]) for index in range(2)
    ]


def test_topology_lists_the_leaders() -> None:
    world = settled(leader_worker(replicas=2, servicePorts=[{"name": "http", "port": 80}]))
    topology = yaml.safe_load(world.objects["ConfigMap", "g"]["data"]["config.yaml"])
    assert topology["roles"]["multi"]["instances"] == [
        {"address": f"g-multi-{index}-0.s-g-multi", "ports": {"http": 80}} for index in range(2)
    ]


def test_patches_make_leaders_and_workers_differ() -> None:
    patch = {"spec": {"containers": [{"name": "main", "env": [{"name": "ROLE", "value": "leader"}]}]}}
    world = settled(
        leader_worker(
            pattern={"leaderTemplatePatch": patch, "workerTemplatePatch": {"metadata": {"labels": {"role": "worker"}}}}
        )
    )
    leader, worker = world.pods()["g-multi-0-0"], world.pods()["g-multi-0-1"]
    assert env(leader)["ROLE"] == "leader"
    assert "ROLE" not in env(worker)
    assert worker["metadata"]["labels"]["role"] == "worker"


def test_only_leaders_ask_for_profiles() -> None:
    world = settled(leader_worker(engineRuntimes=[{"profileName": "patio"}]))
    asking = [name for name, pod in world.pods().items() if "patio.dev/engine-runtimes" in pod["metadata"]["labels"]]
    assert asking == ["g-multi-0-0"]


def test_instance_of_one_pod_has_no_workers() -> None:
    assert list(settled(leader_worker(size=1)).pods()) == ["g-multi-0-0"]


# --- scale


def test_scaling_leaves_the_other_instances_alone() -> None:
    world = settled(leader_worker(replicas=2))
    before = {name: pod["metadata"]["uid"] for name, pod in world.pods().items()}
    world.edit(leader_worker(replicas=3))
    world.settle()
    assert {name: pod["metadata"]["uid"] for name, pod in world.pods().items()}.items() > before.items()
    world.edit(leader_worker(replicas=1))
    world.settle()
    assert {name: pod["metadata"]["uid"] for name, pod in world.pods().items()}.items() < before.items()
    assert list(world.pods()) == ["g-multi-0-0", "g-multi-0-1"]


def test_group_is_not_ready_while_surplus_instances_are_there() -> None:
    world = settled(leader_worker(replicas=2))
    world.edit(leader_worker(replicas=1))
    world.step()
    assert world.status["conditions"][0]["reason"] == "RoleNotReady"


# --- updates


def test_changed_template_reaches_instances_singly_highest_first() -> None:
    world = settled(leader_worker(replicas=3))
    world.edit(leader_worker(replicas=3, image="a:2"))
    for index in (2, 1, 0):
        for position in (0, 1):
            world.step()
            assert world.leaving() == [f"g-multi-{index}-{position}"]
            world.go()
        assert not [name for name in world.pods() if name.startswith(f"g-multi-{index}")], "both go before one comes"
        world.step()
        world.make_ready()
    world.settle()
    assert set(world.images().values()) == {"a:2"}
    assert world.names("ControllerRevision") == [f"g-multi-{revision(world)}"]


def revision(world: GroupSimulator) -> str:
    (found,) = {pod["metadata"]["labels"]["controller-revision-hash"] for pod in world.pods().values()}
    return str(found)


def test_as_many_instances_as_allowed_are_updated_together() -> None:
    rolling = {"rolloutStrategy": {"rollingUpdate": {"maxUnavailable": "50%"}}}
    world = settled(leader_worker(replicas=4, **rolling))
    world.edit(leader_worker(replicas=4, image="a:2", **rolling))
    world.step()
    assert {name.rsplit("-", 1)[0] for name in world.leaving()} == {"g-multi-3", "g-multi-2"}


def test_instances_below_partition_keep_revision_when_recreated() -> None:
    held = {"rolloutStrategy": {"rollingUpdate": {"partition": 1}}}
    world = settled(leader_worker(replicas=3, **held))
    world.edit(leader_worker(replicas=3, image="a:2", **held))
    world.settle()
    assert world.images()["g-multi-0-0"] == "a:1"
    assert world.images()["g-multi-1-0"] == world.images()["g-multi-2-0"] == "a:2"
    for name in ("g-multi-0-0", "g-multi-0-1"):
        del world.objects["Pod", name]
    world.settle()
    assert world.images()["g-multi-0-0"] == world.images()["g-multi-0-1"] == "a:1"
    assert world.status["roleStatuses"][0]["updatedReplicas"] == 2
    world.edit(leader_worker(replicas=3, image="a:2"))
    world.settle()
    assert set(world.images().values()) == {"a:2"}
    assert len(world.names("ControllerRevision")) == 1


def test_rolled_profile_recreates_instances_one_by_one() -> None:
    world = settled(leader_worker(replicas=2))
    before = {name: pod["metadata"]["uid"] for name, pod in world.pods().items()}
    world.metadata = {"annotations": {"patio.dev/rolled-roles": '{"multi": {"patio": "n3w"}, "x": 1}'}}
    world.step()
    assert {name.rsplit("-", 1)[0] for name in world.leaving()} == {"g-multi-1"}
    world.settle()
    after = world.pods()
    assert all(after[name]["metadata"]["uid"] != uid for name, uid in before.items())
    assert after["g-multi-0-0"]["metadata"]["annotations"]["patio.dev/rolled-profiles"] == '{"patio":"n3w"}'
    assert "annotations" not in after["g-multi-0-1"]["metadata"], "workers have no profiles"


def test_paused_update_changes_nothing() -> None:
    paused = {"rolloutStrategy": {"rollingUpdate": {"paused": True}}}
    world = settled(leader_worker(replicas=2, **paused))
    world.edit(leader_worker(replicas=2, image="a:2", **paused))
    world.settle()
    assert set(world.images().values()) == {"a:1"}


def test_instance_that_was_never_ready_does_not_block_its_repair() -> None:
    world = settled(leader_worker(replicas=2))
    world.edit(leader_worker(replicas=2, image="broken"))
    for _ in range(3):  # the leader ends, its worker ends, both are made
        world.step()
        world.go()
    assert world.images()["g-multi-1-0"] == "broken"
    world.edit(leader_worker(replicas=2, image="a:3"))
    world.step()
    assert world.leaving() == ["g-multi-1-0", "g-multi-1-1"]
    world.settle()
    assert set(world.images().values()) == {"a:3"}


def test_changed_size_recreates_instances() -> None:
    world = settled(leader_worker(replicas=1, size=3))
    world.edit(leader_worker(replicas=1, size=2))
    world.settle()
    assert list(world.pods()) == ["g-multi-0-0", "g-multi-0-1"]
    assert env(world.pods()["g-multi-0-0"])["LWS_GROUP_SIZE"] == "2"


def test_pods_of_new_revision_are_tried_before_an_old_one_goes() -> None:
    world = settled(leader_worker(replicas=1))
    assert world.plan().checks == ()
    world.edit(leader_worker(replicas=1, image="a:2"))
    plan = world.plan()
    assert [check["spec"]["containers"][0]["image"] for check in plan.checks] == ["a:2", "a:2"]
    assert not {check["metadata"]["name"] for check in plan.checks} & set(world.pods())


def test_instance_counts_as_updated_once_ready_long_enough() -> None:
    slow = {"minReadySeconds": 30}
    world = settled(leader_worker(replicas=2, **slow))
    world.edit(leader_worker(replicas=2, image="a:2", **slow))
    for _ in range(3):
        world.step()
        world.go()
        world.make_ready()
    plan = world.step()
    assert world.images()["g-multi-0-0"] == "a:1"
    assert plan.requeue_at is not None
    assert timedelta(0) < plan.requeue_at - world.now <= timedelta(seconds=30)
    world.wait(30)
    world.step()
    assert world.leaving() == ["g-multi-0-0"]


# --- the end of an instance that serves


def test_workers_of_scaled_down_instance_stay_until_leader_ended() -> None:
    world = settled(leader_worker(replicas=2, size=3))
    world.edit(leader_worker(replicas=1, size=3))
    world.step()
    assert world.leaving() == ["g-multi-1-0"]
    plan = world.step()
    assert (world.leaving(), plan.requeue_at) == (["g-multi-1-0"], world.now + GRACE)
    world.go()
    world.step()
    assert world.leaving() == ["g-multi-1-1", "g-multi-1-2"]
    world.settle()
    assert set(world.pods()) == {"g-multi-0-0", "g-multi-0-1", "g-multi-0-2"}


def test_workers_of_updated_instance_stay_until_leader_ended() -> None:
    world = settled(leader_worker(replicas=2))
    world.edit(leader_worker(replicas=2, image="a:2"))
    world.step()
    assert world.leaving() == ["g-multi-1-0"]
    world.step()
    assert world.leaving() == ["g-multi-1-0"]
    world.go()
    plan = world.step()
    assert (world.leaving(), plan.creates) == (["g-multi-1-1"], ())
    world.settle()
    assert set(world.images().values()) == {"a:2"}
    assert "InstanceRecreated" not in world.events


def test_leader_that_overruns_its_time_to_end_frees_its_workers() -> None:
    world = settled(leader_worker(replicas=1))
    world.edit(leader_worker(replicas=0))
    world.step()
    world.wait(GRACE.total_seconds())
    world.step()
    assert world.leaving() == ["g-multi-0-0", "g-multi-0-1"]


def test_instance_wanted_again_while_it_ends_is_recreated_whole() -> None:
    world = settled(leader_worker(replicas=1))
    before = {pod["metadata"]["uid"] for pod in world.pods().values()}
    world.edit(leader_worker(replicas=0))
    world.step()
    world.edit(leader_worker(replicas=1))
    world.step()
    assert world.leaving() == ["g-multi-0-0", "g-multi-0-1"]
    world.settle()
    after = {pod["metadata"]["uid"] for pod in world.pods().values()}
    assert len(after) == 2
    assert not after & before


# --- restarts


def test_restarted_container_recreates_its_whole_instance() -> None:
    world = settled(leader_worker(replicas=2))
    world.restart("g-multi-1-1")
    world.step()
    assert world.leaving() == ["g-multi-1-0", "g-multi-1-1"]
    assert "InstanceRecreated" in world.events
    assert (
        "Recreating all pods of instance g-multi-1: container main of pod g-multi-1-1 restarted (attempt 1)"
        in world.messages[-1]
    )
    world.settle()
    assert len(world.pods()) == 4


def test_pod_that_is_gone_takes_its_whole_instance_with_it() -> None:
    world = settled(leader_worker(replicas=1, size=3))
    del world.objects["Pod", "g-multi-0-2"]
    world.step()
    assert world.leaving() == ["g-multi-0-0", "g-multi-0-1"]
    world.settle()
    assert len(world.pods()) == 3


def test_restarts_before_an_instance_was_ready_recreate_nothing() -> None:
    world = GroupSimulator(leader_worker())
    world.step()
    world.make_ready(lambda pod: pod["metadata"]["name"] == "g-multi-0-1")
    world.restart("g-multi-0-1")
    assert world.step().tear_down == ()
    world.make_ready()
    world.settle()
    assert world.leaving() == []
    assert "InstanceRecreated" not in world.events


def test_restarted_sidecar_recreates_no_instance() -> None:
    world = settled(leader_worker())
    world.restart("g-multi-0-0", "patio")
    assert world.step().tear_down == ()


def test_with_policy_none_a_failed_pod_is_replaced_alone() -> None:
    world = settled(leader_worker(size=3, pattern={"restartPolicyConfig": {"type": "None"}}))
    world.restart("g-multi-0-0")
    assert world.step().tear_down == ()
    world.objects["Pod", "g-multi-0-2"]["status"]["phase"] = "Failed"
    world.step()
    assert world.leaving() == ["g-multi-0-2"]
    world.settle()
    assert len(world.pods()) == 3


def test_instance_that_keeps_restarting_is_recreated_ever_later() -> None:
    config = {"type": "RecreateRoleInstanceOnPodRestart", "baseDelaySeconds": 10, "maxDelaySeconds": 30}
    world = settled(leader_worker(pattern={"restartPolicyConfig": config}))
    for pause in (0, 10, 20, 30, 30):
        world.restart("g-multi-0-1")
        plan = world.step()
        assert ((plan.requeue_at - world.now).total_seconds() if plan.requeue_at else 0) == pause
        if pause:
            assert world.leaving() == []
            world.wait(pause)
            world.step()
        assert world.leaving() == ["g-multi-0-0", "g-multi-0-1"]
        for _ in range(3):
            world.go()
            world.step()
            world.make_ready()
    world.wait(601)
    world.restart("g-multi-0-1")
    assert world.step().requeue_at is None


@given(st.integers(0, 9), st.integers(0, 2000))
def test_pause_is_never_longer_than_the_longest(count: int, seconds: int) -> None:
    config = RestartPolicyConfig(base_delay_seconds=30, max_delay_seconds=600)
    before = RestartState(ready=True, recreations=count, recreated_at=START - timedelta(seconds=seconds))
    after, wait = recreated(before, config, START)
    assert timedelta(0) <= wait <= timedelta(seconds=600)
    assert after.recreations in (1, count + 1)


memories = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.dictionaries(
        st.integers(0, 3),
        st.builds(RestartState, st.booleans(), st.integers(0, 5), st.integers(0, 5), st.none() | st.just(START)),
    ),
)


@given(memories)
def test_what_is_remembered_is_read_as_it_was_written(of: dict[str, dict[int, RestartState]]) -> None:
    kept = {
        role: {index: state for index, state in entries.items() if state != RestartState()}
        for role, entries in of.items()
    }
    assert read(write(of)) == {role: entries for role, entries in kept.items() if entries}


@pytest.mark.parametrize("junk", ["[", "[]", '{"a": 1}', '{"a": {"x": {}}}', '{"a": {"0": {"recreatedAt": "now"}}}'])
def test_restart_state_of_another_writer_is_ignored(junk: str) -> None:
    assert read(junk) == {}


# --- garbage, adoption, hand-over


def test_role_with_changed_pattern_leaves_nothing_of_the_old_one() -> None:
    world = settled(leader_worker("r"))
    standalone = {"name": "r", "standalonePattern": {"template": {"spec": {"containers": [{"name": "main"}]}}}}
    world.edit(standalone)
    for _ in range(2):
        world.step()
        world.go()
    assert world.pods() == {}
    assert (world.names("ControllerRevision"), world.names("EndpointSlice")) == ([], [])
    assert world.names("StatefulSet") == ["g-r"]
    world.edit(leader_worker("r"))
    world.settle()
    assert world.names("StatefulSet") == []
    assert len(world.pods()) == 2


def test_removed_role_takes_its_pods_with_it() -> None:
    world = settled(leader_worker("a"), leader_worker("b"))
    world.edit(leader_worker("a"))
    world.settle()
    assert list(world.pods()) == ["g-a-0-0", "g-a-0-1"]
    assert len(world.names("ControllerRevision")) == 1
    assert world.names("Service") == ["s-g-a"]


def test_pods_without_their_group_are_adopted_and_not_doubled() -> None:
    world = settled(leader_worker(replicas=2))
    for body in world.objects.values():
        body["metadata"]["ownerReferences"] = []
    plan = world.plan()
    assert {adopted.name for adopted in plan.adopts} == set(world.pods())
    assert (plan.creates, plan.tear_down, plan.deletes) == ((), (), ())


def test_foreign_pod_of_a_members_name_blocks_it_and_stays() -> None:
    world = GroupSimulator(leader_worker())
    foreign_pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "g-multi-0-1", "namespace": "team", "uid": "x"},
    }
    world.objects["Pod", "g-multi-0-1"] = foreign_pod
    plan = world.step()
    assert world.status["conditions"][0]["reason"] == "NameTaken"
    assert plan.requeue_at is not None
    assert (plan.creates, plan.tear_down, plan.deletes, plan.applies) == ((), (), (), ())


def test_group_handed_over_leaves_nothing_behind_and_says_so() -> None:
    standalone = {"name": "r", "standalonePattern": {"template": {"spec": {"containers": [{"name": "main"}]}}}}
    world = settled(leader_worker(), standalone)
    world.metadata = {"annotations": {"patio.dev/hand-over": "true"}}
    owner = {"kind": "RoleBasedGroup", "name": "g", "uid": "uid-g", "controller": True}
    metadata = {"name": "g-0-1", "namespace": "team", "uid": "x", "managedFields": [{"manager": "rbg"}]}
    upstreams = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata | {"ownerReferences": [owner]}}
    world.objects["StatefulSet", "g-0-1"] = upstreams
    assert world.step().deletes == ()
    world.step()
    world.go()
    assert world.objects == {("StatefulSet", "g-0-1"): upstreams}
    assert world.status["conditions"][0]["reason"] == "HandedOver"
    assert "Remove the annotation" in world.status["conditions"][0]["message"]
    again = world.step()
    assert (again.status, again.events, again.applies) == (None, (), ())


def test_leader_worker_role_waits_for_those_it_depends_on() -> None:
    world = GroupSimulator(leader_worker("a"), leader_worker("b", dependencies=["a"]))
    world.step()
    assert list(world.pods()) == ["g-a-0-0", "g-a-0-1"]
    assert world.names("Service") == ["s-g-a"]
    world.make_ready()
    world.step()
    assert "g-b-0-0" in world.pods()


def test_roles_whose_pods_would_have_the_same_names_are_rejected() -> None:
    standalone = {"name": "a-0", "standalonePattern": {"template": {"spec": {"containers": [{"name": "main"}]}}}}
    world = GroupSimulator(leader_worker("a"), standalone)
    world.step()
    assert world.status["conditions"][0]["reason"] == "InvalidSpec"
    assert "'a' and 'a-0'" in world.status["conditions"][0]["message"]


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (leader_worker(size=0), "leaderWorkerPattern.size is 0"),
        (leader_worker("r" * 58), "shorten the name of the group or the role"),
    ],
)
def test_what_cannot_be_named_or_has_no_leader_is_rejected(role: dict[str, Any], message: str) -> None:
    world = GroupSimulator(role)
    world.step()
    assert message in world.status["conditions"][0]["message"]
    assert world.pods() == {}


# --- laws

edits = st.builds(
    lambda replicas, size, image, rolling, policy: leader_worker(
        replicas=replicas,
        size=size,
        image=image,
        rolloutStrategy={"rollingUpdate": rolling},
        pattern={"restartPolicyConfig": {"type": policy}},
    ),
    st.integers(0, 4),
    st.integers(1, 3),
    st.sampled_from(["a:1", "a:2", "a:3"]),
    st.fixed_dictionaries({"maxUnavailable": st.sampled_from([1, 2, "50%"])}),
    st.sampled_from(["None", "RecreateRoleInstanceOnPodRestart"]),
)
accidents = st.sampled_from(["nothing", "lost", "failed", "restarted"])


@given(st.lists(st.tuples(edits, accidents, st.integers(0, 11), st.integers(0, 3)), min_size=1, max_size=5))
def test_whatever_happens_it_ends_as_the_group_says(
    history: list[tuple[dict[str, Any], str, int, int]],
) -> None:
    world = GroupSimulator(leader_worker())
    for role, accident, which, steps in history:
        world.edit(role)
        for _ in range(steps):
            world.step()
            world.go()
            world.make_ready()
        ready = [name for name, pod in world.pods().items() if "status" in pod]
        if ready and accident != "nothing":
            name = ready[which % len(ready)]
            if accident == "lost":
                del world.objects["Pod", name]
            elif accident == "failed":
                world.objects["Pod", name]["status"]["phase"] = "Failed"
            else:
                world.restart(name)
    world.settle()
    (role,) = world.roles
    pattern, replicas = role["leaderWorkerPattern"], role["replicas"]
    assert list(world.pods()) == [
        f"g-multi-{index}-{position}" for index in range(replicas) for position in range(pattern["size"])
    ]
    assert set(world.images().values()) <= {pattern["template"]["spec"]["containers"][0]["image"]}
    assert world.status["conditions"][0]["status"] == "True"
    assert len(world.names("ControllerRevision")) == 1


@given(st.integers(1, 5), st.integers(1, 3), st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_update_never_takes_more_than_it_may(replicas: int, allowed: int, luck: list[tuple[bool, bool]]) -> None:
    rolling = {"rolloutStrategy": {"rollingUpdate": {"maxUnavailable": allowed}}}
    world = settled(leader_worker(replicas=replicas, **rolling))
    world.edit(leader_worker(replicas=replicas, image="a:2", **rolling))
    for pods_end, pods_get_ready in [*luck, *[(True, True)] * 18]:
        world.step()
        serving = sum(
            all("status" in world.pods().get(f"g-multi-{index}-{position}", {}) for position in range(2))
            for index in range(replicas)
        )
        assert serving >= replicas - allowed
        if pods_end:
            world.go()
        if pods_get_ready:
            world.make_ready()
    assert list(world.images().values()) == ["a:2"] * 2 * replicas


@given(edits)
def test_same_group_and_pods_give_the_same_plan(role: dict[str, Any]) -> None:
    world = settled(role)
    first, again = world.plan(), world.plan()
    assert first == again
    assert (first.creates, first.tear_down, first.deletes, first.events) == ((), (), (), ())


def test_group_of_these_tests_is_valid_for_the_api_server() -> None:
    assert a_group().spec.roles[0].leader_worker_pattern is not None

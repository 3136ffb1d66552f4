"""What becomes of a ModelEndpoint: its objects, its rolls, and what is said of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from patio_operator.injection.engine import find_engine
from patio_operator.modelendpoints.demand import Demand
from patio_operator.modelendpoints.planner import naming, planner
from patio_operator.modelendpoints.planner.plan import Plan
from patio_operator.modelendpoints.planner.snapshot import Claim, GroupSupport, PodState

from ..builders import NOW, SPLIT, endpoint, group, pod, ready, snapshot

Object = dict[str, Any]
OLD, NEW = endpoint(), endpoint(model={"uri": "hf://Qwen/Qwen3-8B@v2"})


def applied(plan: Plan, kind: str) -> Object:
    (body,) = [apply.body for apply in plan.applies if apply.body["kind"] == kind]
    return body


def condition(plan: Plan, type_: str) -> Object:
    assert plan.status is not None
    (found,) = [each for each in plan.status["conditions"] if each["type"] == type_]
    return dict(found)


def summary(plan: Plan) -> dict[str, str]:
    assert plan.status is not None
    return {each["type"]: f"{each['status']} {each['reason']}" for each in plan.status["conditions"]}


# --- objects


def test_endpoint_becomes_a_group_and_a_service() -> None:
    plan = planner.plan(snapshot(OLD))
    made, service = applied(plan, "RoleBasedGroup"), applied(plan, "Service")
    (role,) = made["spec"]["roles"]
    (container,) = role["standalonePattern"]["template"]["spec"]["containers"]
    assert (role["name"], role["replicas"], role["engineRuntimes"]) == ("server", 2, [{"profileName": "patio"} | EMPTY])
    assert container["command"] == ["vllm", "serve"]
    assert container["args"] == ["Qwen/Qwen3-8B", "--served-model-name", "qwen", "--port", "8000"]
    assert container["image"] == "registry.example.com/vllm:1"
    labels = role["standalonePattern"]["template"]["metadata"]["labels"]
    assert service["metadata"]["name"] == "qwen"
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": 8000}]
    for body in (made, service):
        (owner,) = body["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("ModelEndpoint", "uid-qwen", True)


EMPTY: Object = {"injectContainers": [], "containers": []}


def test_names_of_groups_and_pods_fit_however_long_the_endpoints() -> None:
    longest = endpoint("q" * 63, **SPLIT)
    name = naming.group(longest, naming.revision(longest))
    assert len(f"{name}-prefill") <= 52
    other = endpoint("q" * 62 + "x", **SPLIT)
    assert naming.group(other, naming.revision(other)) != name


def test_scaling_and_access_are_no_new_revision() -> None:
    others = (
        endpoint(workers={"replicas": 7, "max": 9, "loadingGrace": "1h"}),
        endpoint(access={"public": True}, queue={"max": 3}, routing={"loadBound": 2}),
        endpoint(autoscaling="external", kind="async"),
    )
    assert {naming.revision(other) for other in others} == {naming.revision(OLD)}
    assert naming.revision(NEW) != naming.revision(OLD)


def test_prefill_and_decode_get_a_router_and_register_with_it() -> None:
    plan = planner.plan(snapshot(endpoint(**SPLIT)))
    prefill, decode, router = applied(plan, "RoleBasedGroup")["spec"]["roles"]
    assert [role["replicas"] for role in (prefill, decode, router)] == [2, 4, 1]
    override = prefill["engineRuntimes"][0]["containers"][0]
    assert override["name"] == "patio"
    assert override["args"] == [
        '--instance-info={"data": {"port": 30000, "worker_type": "prefill", "bootstrap_port": 8998}}'
    ]
    assert {"name": "ROUTER_ROLE_NAME", "value": "router"} in override["env"]
    taking = [
        role["name"]
        for role in (prefill, decode, router)
        if "patio.dev/takes-requests" in role["standalonePattern"]["template"]["metadata"]["labels"]
    ]
    assert taking == ["router"]
    assert applied(plan, "Service")["spec"]["ports"][0]["targetPort"] == 8000


def test_several_nodes_are_a_leader_and_workers() -> None:
    spread = endpoint(roles=[{"type": "server", "nodesPerWorker": 3}])
    (role,) = applied(planner.plan(snapshot(spread)), "RoleBasedGroup")["spec"]["roles"]
    pattern = role["leaderWorkerPattern"]
    (leader,) = pattern["template"]["spec"]["containers"]
    (worker,) = pattern["workerTemplatePatch"]["spec"]["containers"]
    assert pattern["size"] == 3
    assert "--headless" in worker["args"]
    assert "--headless" not in leader["args"]
    assert "patio.dev/takes-requests" in pattern["leaderTemplatePatch"]["metadata"]["labels"]
    assert "patio.dev/takes-requests" not in pattern["template"]["metadata"]["labels"]


def test_users_patch_is_left_to_who_realises_the_group() -> None:
    patch = {"spec": {"nodeSelector": {"gpu": "a100"}}}
    made = applied(planner.plan(snapshot(endpoint(roles=[{"type": "server", "template": patch}]))), "RoleBasedGroup")
    assert made["spec"]["roles"][0]["standalonePattern"] == {"templateRef": {"name": "server", "patch": patch}}
    assert [template["name"] for template in made["spec"]["roleTemplates"]] == ["server"]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"engine": "sglang"},
        {"adapters": {"selector": {"matchLabels": {"for": "qwen"}}}},
        {"engine": "sglang", "adapters": {"selector": {"matchLabels": {"for": "qwen"}}}},
        {"model": {"uri": "s3://bucket/model"}},
        {"engine": "sglang", "model": {"uri": "obs://bucket/model"}},
        {"cache": {"persistentVolumeClaim": "models"}, "model": {"uri": "pvc://qwen"}},
        {"roles": [{"type": "server", "args": ["--max-model-len=4096"]}]},
    ],
)
def test_injection_understands_every_command_line(spec: Object) -> None:
    of = endpoint(**spec)
    (role,) = applied(planner.plan(snapshot(of)), "RoleBasedGroup")["spec"]["roles"]
    engine = find_engine(role["standalonePattern"]["template"]["spec"]["containers"])
    assert (engine.kind, engine.model, engine.lora) == (of.spec.engine, "qwen", of.spec.adapters is not None)
    assert engine.port == (8000 if of.spec.engine == "vllm" else 30000)


# --- rolls


def test_new_revision_gets_a_worker_before_an_old_one_goes() -> None:
    plan = planner.plan(snapshot(NEW, [group(OLD, 2)], ready(OLD, 2)))
    assert applied(plan, "RoleBasedGroup")["spec"]["roles"][0]["replicas"] == 1
    assert plan.resizes == ()
    assert summary(plan)["Ready"] == "False Rolling"
    assert summary(plan)["Progressing"] == "True Rolling"


def test_old_worker_goes_when_a_new_one_answers() -> None:
    plan = planner.plan(snapshot(NEW, [group(OLD, 2), group(NEW, 1)], [*ready(OLD, 2), *ready(NEW, 1)]))
    sizes = {(resize.workers_before, resize.workers) for resize in plan.resizes}
    assert sizes == {(2, 1), (1, 2)}
    assert summary(plan)["Ready"] == "True Serving"


def test_resize_changes_numbers_alone_and_of_what_was_seen() -> None:
    seen = group(endpoint(**SPLIT), 2)
    plan = planner.plan(snapshot(endpoint(**SPLIT, workers={"replicas": 3, "max": 3}), [seen]))
    (resize,) = plan.resizes
    assert resize.patch["metadata"] == {"uid": seen.uid, "resourceVersion": "7"}
    after = resize.patch["spec"]["roles"]
    assert [role["replicas"] for role in after] == [3, 6, 1]
    assert [{**role, "replicas": 0} for role in after] == [{**role, "replicas": 0} for role in seen.roles]


def test_worker_that_does_not_come_up_stops_the_roll() -> None:
    broken = pod(NEW, 0, PodState.FAILING, message="container 'engine': ImagePullBackOff: no such image")
    plan = planner.plan(snapshot(NEW, [group(OLD, 2), group(NEW, 1)], [*ready(OLD, 2), broken]))
    assert plan.resizes == ()
    assert summary(plan) == {
        "Ready": "False Rolling",
        "Progressing": "False RollStopped",
        "ScaledToZero": "False HasWorkers",
        "Degraded": "True RollStopped",
    }
    message = condition(plan, "Degraded")["message"]
    assert broken.name in message
    assert "no such image" in message


def test_old_revision_follows_the_demand_while_a_roll_is_stopped() -> None:
    more = endpoint(model={"uri": "hf://Qwen/Qwen3-8B@v2"}, workers={"replicas": 5, "max": 8})
    broken = pod(NEW, 0, PodState.FAILING)
    plan = planner.plan(snapshot(more, [group(OLD, 2), group(NEW, 1)], [*ready(OLD, 2), broken]))
    (resize,) = plan.resizes
    assert (resize.group, resize.workers) == (group(OLD, 2).name, 5)


def test_correction_of_a_broken_revision_drops_it_at_once() -> None:
    fixed = endpoint(model={"uri": "hf://Qwen/Qwen3-8B@v3"})
    groups = [group(OLD, 2), group(NEW, 1, creationTimestamp="2026-11-27T11:00:00Z")]
    plan = planner.plan(snapshot(fixed, groups, [*ready(OLD, 2), pod(NEW, 0, PodState.FAILING)]))
    assert [(resize.group, resize.workers) for resize in plan.resizes] == [(group(NEW, 1).name, 0)]
    assert applied(plan, "RoleBasedGroup")["spec"]["roles"][0]["replicas"] == 1


def test_edit_that_is_set_back_goes_on_with_the_old_workers() -> None:
    plan = planner.plan(snapshot(OLD, [group(OLD, 2), group(NEW, 1)], [*ready(OLD, 2), pod(NEW, 0, PodState.LOADING)]))
    assert [(resize.group, resize.workers) for resize in plan.resizes] == [(group(NEW, 1).name, 0)]
    assert summary(plan)["Ready"] == "True Serving"


def test_group_of_an_old_revision_goes_with_its_last_pod() -> None:
    seen = [group(NEW, 2), group(OLD, 0)]
    ending = pod(OLD, 0, leaving=True)
    assert planner.plan(snapshot(NEW, seen, [*ready(NEW, 2), ending])).deletes == ()
    (delete,) = planner.plan(snapshot(NEW, seen, ready(NEW, 2))).deletes
    assert delete.group == group(OLD, 0).name


def test_endpoint_at_zero_has_a_group_without_workers() -> None:
    asleep = endpoint(workers={"replicas": 0})
    plan = planner.plan(snapshot(asleep, [group(OLD, 0)]))
    assert plan.resizes == ()
    assert summary(plan) == {
        "Ready": "False ScaledToZero",
        "Progressing": "False Complete",
        "ScaledToZero": "True NoWorkers",
        "Degraded": "False AsExpected",
    }
    assert plan.status is not None
    assert plan.status["progress"] == {
        "phase": "Asleep",
        "pod": "",
        "message": "No worker runs; the next request starts one.",
    }


def test_group_is_written_once_and_not_again() -> None:
    plan = planner.plan(snapshot(OLD, [group(OLD, 2)], ready(OLD, 2)))
    assert [apply.body["kind"] for apply in plan.applies] == ["Service"]


def test_endpoint_without_a_number_is_given_the_fewest() -> None:
    assert planner.plan(snapshot(endpoint(workers={"min": 1}))).replicas == 1
    assert planner.plan(snapshot(endpoint(workers={}))).replicas == 0
    assert planner.plan(snapshot(OLD)).replicas is None


def test_deleted_endpoint_is_left_to_its_owner_references() -> None:
    deleted = endpoint(metadata={"deletionTimestamp": "2026-11-27T11:00:00Z"})
    assert planner.plan(snapshot(deleted, [group(OLD, 2)], ready(OLD, 2))) == Plan()


# --- status


def test_status_counts_workers_and_names_models() -> None:
    pods = [pod(OLD, 0), pod(OLD, 1, PodState.LOADING)]
    plan = planner.plan(
        snapshot(
            endpoint(model={"uri": "hf://Qwen/Qwen3-8B", "aliases": ["chat"]}),
            [group(endpoint(model={"uri": "hf://Qwen/Qwen3-8B", "aliases": ["chat"]}), 2)],
            [
                pod(endpoint(model={"uri": "hf://Qwen/Qwen3-8B", "aliases": ["chat"]}), index, each.state)
                for index, each in enumerate(pods)
            ],
            adapters=["sql", "law"],
            demand=Demand(True, 5, 2, NOW),
            gateway_url="https://models.example.com/",
        )
    )
    assert plan.status is not None
    assert plan.status["workers"] == {"desired": 2, "ready": 1, "updated": 1, "loading": 1, "failed": 0}
    assert plan.status["models"] == ["qwen", "chat", "law", "sql"]
    assert (plan.status["queued"], plan.status["inFlight"], plan.status["replicas"]) == (2, 5, 2)
    assert plan.status["url"] == "https://models.example.com/v1"
    assert plan.status["lastActivity"] == "2026-11-27T12:00:00Z"
    assert plan.status["selector"] == "patio.dev/endpoint=qwen,patio.dev/takes-requests=true"


def test_progress_names_the_download_in_percent() -> None:
    loading = [pod(OLD, 0, PodState.PULLING), pod(OLD, 1, PodState.LOADING)]
    plan = planner.plan(snapshot(OLD, [group(OLD, 2)], loading, downloads={loading[1].uid: 34}))
    assert plan.status is not None
    assert plan.status["progress"] == {
        "phase": "Downloading",
        "percent": 34,
        "pod": loading[1].name,
        "message": f"{loading[1].name} downloads the model: 34 %",
    }
    assert "34 %" in condition(plan, "Ready")["message"]


def test_worker_that_loads_too_long_is_named_and_not_before() -> None:
    slow = pod(OLD, 0, PodState.LOADING, since=NOW - timedelta(minutes=31))
    single = endpoint(workers={"replicas": 1})
    plan = planner.plan(snapshot(single, [group(single, 1)], [slow]))
    assert summary(plan)["Ready"] == "False WorkerFailed"
    assert f"{slow.name}: it has not answered for 31 min" in condition(plan, "Degraded")["message"]
    early = planner.plan(snapshot(single, [group(single, 1)], [pod(OLD, 0, PodState.LOADING)]))
    assert summary(early)["Ready"] == "False Loading"
    assert early.requeue_at == NOW + timedelta(minutes=29)


def test_ready_pod_without_a_sidecar_proves_nothing() -> None:
    single = endpoint(workers={"replicas": 1})
    plan = planner.plan(snapshot(single, [group(single, 1)], [pod(single, 0, injected=False)]))
    assert summary(plan)["Ready"] == "False WorkerFailed"
    assert "no sidecar" in condition(plan, "Ready")["message"]


def test_group_that_is_not_realised_says_why() -> None:
    seen = group(OLD, 2, status={"reason": "Unsupported", "message": "role 'server': too many pods"})
    plan = planner.plan(snapshot(OLD, [seen]))
    assert summary(plan)["Ready"] == "False WorkerFailed"
    assert f"group {seen.name}: Unsupported: role 'server': too many pods" in condition(plan, "Ready")["message"]
    waiting = group(OLD, 2, status={"reason": "RoleNotReady", "message": "server: exceeded quota"})
    plan = planner.plan(snapshot(OLD, [waiting]))
    assert summary(plan)["Ready"] == "False Loading"
    assert "exceeded quota" in condition(plan, "Ready")["message"]


def test_workers_of_a_revision_without_sidecars_are_protected() -> None:
    bare = endpoint(engineRuntimes=[])
    pods = [pod(bare, index, injected=False) for index in range(2)]
    plan = planner.plan(snapshot(OLD, [group(bare, 2)], pods))
    assert plan.resizes == ()
    assert plan.status is not None
    assert plan.status["workers"]["ready"] == 2


def test_split_worker_answers_when_all_pods_and_the_router_do() -> None:
    split = endpoint(**SPLIT)
    pods = [
        *(pod(split, index, role="prefill") for index in range(2)),
        *(pod(split, index, role="decode") for index in range(3)),
    ]
    router = pod(split, 0, role="router", injected=False)
    without = planner.plan(snapshot(split, [group(split, 2)], pods))
    plan = planner.plan(snapshot(split, [group(split, 2)], [*pods, router]))
    assert without.status is not None
    assert plan.status is not None
    assert (without.status["workers"]["ready"], plan.status["workers"]["ready"]) == (0, 1)


def test_times_of_conditions_stay_while_their_status_does() -> None:
    first = planner.plan(snapshot(OLD, [group(OLD, 2)], ready(OLD, 2)))
    assert first.status is not None
    later = endpoint(status=first.status)
    again = planner.plan(snapshot(later, [group(OLD, 2)], ready(OLD, 2), now=NOW + timedelta(hours=1)))
    assert again.status == first.status


# --- what keeps an endpoint from being made


def test_older_endpoint_has_the_name() -> None:
    older = Claim("other/qwen", ("qwen",), NOW - timedelta(days=1))
    plan = planner.plan(snapshot(OLD, claims=[older]))
    assert plan.applies == ()
    assert summary(plan)["Ready"] == "False NameTaken"
    assert "other/qwen" in condition(plan, "Ready")["message"]
    assert plan.status is not None
    assert plan.status["models"] == []
    younger = Claim("other/qwen", ("qwen",), NOW)
    assert summary(planner.plan(snapshot(OLD, claims=[younger])))["Ready"] == "False Loading"


def test_alias_of_an_older_endpoint_is_lost_alone() -> None:
    of = endpoint(model={"uri": "hf://Qwen/Qwen3-8B", "aliases": ["chat"]})
    plan = planner.plan(
        snapshot(of, [group(of, 2)], ready(of, 2), claims=[Claim("a/b", ("chat",), NOW.min.replace(tzinfo=NOW.tzinfo))])
    )
    assert summary(plan)["Ready"] == "True Serving"
    assert summary(plan)["Degraded"] == "True NameTaken"
    assert plan.status is not None
    assert plan.status["models"] == ["qwen"]


@pytest.mark.parametrize(
    ("fields", "reason", "remedy"),
    [
        ({"group_support": GroupSupport.NO_KIND}, "NoRoleBasedGroups", "install the CRDs"),
        ({"group_support": GroupSupport.OFF}, "GroupsOff", "groups.mode"),
        ({"sidecars": {}}, "ProfileNotFound", "create it"),
    ],
)
def test_what_is_missing_in_the_cluster_is_said(fields: Object, reason: str, remedy: str) -> None:
    plan = planner.plan(snapshot(OLD, **fields))
    assert (plan.applies, summary(plan)["Ready"]) == ((), f"False {reason}")
    assert remedy in condition(plan, "Ready")["message"]
    assert summary(plan)["Degraded"] == f"True {reason}"


def test_problem_leaves_the_workers_that_there_are() -> None:
    plan = planner.plan(snapshot(NEW, [group(OLD, 2)], ready(OLD, 2), sidecars={}))
    assert (plan.applies, plan.resizes, plan.deletes) == ((), (), ())
    assert plan.status is not None
    assert plan.status["workers"]["ready"] == 2


def test_service_of_another_owner_is_left() -> None:
    plan = planner.plan(snapshot(OLD, [group(OLD, 2)], ready(OLD, 2), service_owner=""))
    assert plan.applies == ()
    assert summary(plan)["Ready"] == "True Serving"
    assert summary(plan)["Degraded"] == "True ServiceNameTaken"


def test_invalid_spec_is_said_with_the_field() -> None:
    plan = planner.plan(snapshot(endpoint(roles=[{"type": "server", "args": ["--port=1"]}])))
    assert summary(plan)["Ready"] == "False InvalidSpec"
    assert "spec.roles[0].args: --port is Patio's" in condition(plan, "Ready")["message"]


def test_last_scaling_decision_stays_in_the_status() -> None:
    decision = {"at": "2026-11-27T11:00:00Z", "from": 0, "to": 2, "reason": "WokenByDemand: one request waits"}
    plan = planner.plan(snapshot(endpoint(status={"lastDecision": decision})))
    assert plan.status is not None
    assert plan.status["lastDecision"] == decision


@pytest.mark.parametrize(
    ("state", "phase", "words"),
    [
        (PodState.SCHEDULING, "Scheduling", "waits for a node: 0/3 nodes: no gpu"),
        (PodState.PULLING, "Pulling", "starts its containers: 0/3 nodes: no gpu"),
    ],
)
def test_progress_tells_what_a_worker_waits_for(state: PodState, phase: str, words: str) -> None:
    pods = [pod(OLD, 0, state, message="0/3 nodes: no gpu")]
    plan = planner.plan(snapshot(OLD, [group(OLD, 2)], pods))
    assert plan.status is not None
    assert plan.status["progress"]["phase"] == phase
    assert words in plan.status["progress"]["message"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"workers": {"replicas": 0, "max": 0}}, "workers.max is 0. Raise it to serve the model"),
        ({"workers": {"replicas": 0, "max": 4}, "autoscaling": "external"}, "scales this ModelEndpoint from outside"),
        ({"workers": {"replicas": 0, "max": 4}}, "the next request starts one"),
    ],
)
def test_endpoint_without_a_worker_says_what_starts_one(spec: Object, words: str) -> None:
    asleep = endpoint(**spec)
    plan = planner.plan(snapshot(asleep, [group(asleep, 0)]))
    assert words in condition(plan, "Ready")["message"]
    assert words in condition(plan, "ScaledToZero")["message"]


def test_pods_that_end_after_the_last_request_are_counted() -> None:
    asleep = endpoint(workers={"replicas": 0, "max": 4})
    plan = planner.plan(snapshot(asleep, [group(asleep, 0)], [pod(asleep, 0, leaving=True)]))
    assert summary(plan)["Progressing"] == "True ScalingDown"
    assert "Pods that answer their last requests and end: 1" in condition(plan, "Progressing")["message"]

"""RoleBasedGroups against a real API server: what the operator makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from patio_testing.kube import Kube, condition, until
from patio_testing.operator_process import OperatorProcess

pytestmark = pytest.mark.api


def rbg(namespace: str, *roles: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "RoleBasedGroup",
        "metadata": {"name": "demo", "namespace": namespace},
        "spec": {"roles": list(roles)},
    }


def role(name: str, **more: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "engine", "image": "engine"}]}
    return {"name": name, "replicas": 1, "standalonePattern": {"template": {"spec": pod}}} | more


def stateful_set(kube: Kube, namespace: str, name: str) -> Any:
    return kube.get(f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}")


def group(kube: Kube, namespace: str) -> Any:
    return kube.get(f"/apis/workloads.x-k8s.io/v1alpha2/namespaces/{namespace}/rolebasedgroups/demo")


@pytest.mark.usefixtures("operator")
def test_role_becomes_a_statefulset_and_a_headless_service(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, role("worker", replicas=2)))
    workload = until("the StatefulSet", lambda: stateful_set(kube, namespace, "demo-worker"))
    assert workload["spec"]["replicas"] == 2
    service = kube.get(f"/api/v1/namespaces/{namespace}/services/s-demo-worker")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    (owner,) = workload["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("RoleBasedGroup", "demo", True)


@pytest.mark.usefixtures("operator")
def test_status_follows_the_statefulsets(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, role("worker")))
    workload = until("the StatefulSet", lambda: stateful_set(kube, namespace, "demo-worker"))
    until("not Ready", lambda: condition(group(kube, namespace), "Ready"), lambda ready: ready.get("status") == "False")
    status = {
        "observedGeneration": workload["metadata"]["generation"],
        "replicas": 1,
        "readyReplicas": 1,
        "updatedReplicas": 1,
        "availableReplicas": 1,
    }
    patch = json.dumps({"status": status})
    kube.kubectl("-n", namespace, "patch", "sts", "demo-worker", "--subresource=status", "--type=merge", "-p", patch)
    until("Ready", lambda: condition(group(kube, namespace), "Ready"), lambda ready: ready.get("status") == "True")


def test_pass_over_what_is_as_it_should_be_applies_nothing(
    kube: Kube, namespace: str, operator: OperatorProcess
) -> None:
    def passes() -> float:
        return counted(operator.metrics(), "patio_operator_reconciles_total", 'kind="RoleBasedGroup"')

    def applies() -> float:
        kinds = ("statefulsets", "services", "configmaps")
        metrics = kube.http.get("/metrics").text
        return sum(counted(metrics, "apiserver_request_total", f'resource="{kind}"', 'verb="APPLY"') for kind in kinds)

    def waked(number: int) -> None:
        before = passes()
        labels = {"rbg.workloads.x-k8s.io/group-name": "demo"}
        metadata = {"name": f"wakes-{number}", "namespace": namespace, "labels": labels}
        spec = {"containers": [{"name": "c", "image": "i"}]}
        kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        until("a pass", passes, lambda seen: seen > before)

    kube.apply(rbg(namespace, role("worker")))
    until("the status", lambda: condition(group(kube, namespace), "Ready"))
    waked(0)
    before = applies()
    assert before >= 3
    for number in range(1, 4):
        waked(number)
    assert applies() == before
    kube.kubectl("-n", namespace, "scale", "sts", "demo-worker", "--replicas=5")
    until("as the group says", lambda: stateful_set(kube, namespace, "demo-worker")["spec"]["replicas"] == 1)


def counted(metrics: str, name: str, *labels: str) -> float:
    lines = [
        line for line in metrics.splitlines() if line.startswith(name + "{") and all(label in line for label in labels)
    ]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.usefixtures("operator")
def test_changed_and_a_removed_role_are_followed(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, role("one"), role("two")))
    until("both", lambda: all(stateful_set(kube, namespace, f"demo-{suffix}") for suffix in ("one", "two")))
    kube.apply(rbg(namespace, role("one", replicas=3)))
    until("scaled", lambda: stateful_set(kube, namespace, "demo-one")["spec"]["replicas"] == 3)
    until("removed", lambda: stateful_set(kube, namespace, "demo-two") is None)


@pytest.mark.usefixtures("operator")
def test_unsupported_group_is_rejected_by_name_and_makes_nothing(kube: Kube, namespace: str) -> None:
    custom = {"name": "multi", "replicas": 1, "customComponentsPattern": {"components": []}}
    kube.apply(rbg(namespace, role("worker"), custom))
    ready = until("the verdict", lambda: condition(group(kube, namespace), "Ready"))
    assert (ready["status"], ready["reason"]) == ("False", "Unsupported")
    assert "multi" in ready["message"]
    assert stateful_set(kube, namespace, "demo-worker") is None


@pytest.mark.usefixtures("operator")
def test_role_waits_for_its_profile_and_goes_on_once_it_appears(kube: Kube, namespace: str) -> None:
    profile = f"late-{namespace}"
    kube.apply(rbg(namespace, role("worker", engineRuntimes=[{"profileName": profile}])))
    ready = until(
        "the verdict",
        lambda: condition(group(kube, namespace), "Ready"),
        lambda ready: ready.get("reason") == "ProfileNotFound",
    )
    assert profile in ready["message"]
    kube.apply(
        {
            "apiVersion": "workloads.x-k8s.io/v1alpha2",
            "kind": "ClusterEngineRuntimeProfile",
            "metadata": {"name": profile},
            "spec": {"updateStrategy": "NoUpdate", "containers": [{"name": "side", "image": "side"}]},
        }
    )
    workload = until("the StatefulSet", lambda: stateful_set(kube, namespace, "demo-worker"))
    assert [container["name"] for container in workload["spec"]["template"]["spec"]["containers"]] == ["engine"]


@pytest.mark.usefixtures("operator")
def test_object_of_another_owner_is_never_overwritten(kube: Kube, namespace: str) -> None:
    foreign = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "demo", "namespace": namespace}}
    kube.apply(foreign | {"data": {"mine": "yes"}})
    kube.apply(rbg(namespace, role("worker")))
    ready = until("the verdict", lambda: condition(group(kube, namespace), "Ready"))
    assert (ready["status"], ready["reason"]) == ("False", "NameTaken")
    assert "ConfigMap 'demo'" in ready["message"]
    assert kube.get(f"/api/v1/namespaces/{namespace}/configmaps/demo")["data"] == {"mine": "yes"}
    assert stateful_set(kube, namespace, "demo-worker") is None


def leader_worker(image: str = "engine", **more: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "engine", "image": image}]}
    return {"name": "multi", "replicas": 2, "leaderWorkerPattern": {"size": 2, "template": {"spec": pod}}} | more


def member_names(kube: Kube, namespace: str) -> list[str]:
    return sorted(pod["metadata"]["name"] for pod in kube.pods(namespace))


def make_ready(kube: Kube, namespace: str, restarts: int = 0, only: str = "") -> None:
    """Do for all pods, or one, what no kubelet does here."""
    for pod in kube.pods(namespace):
        if only not in ("", pod["metadata"]["name"]):
            continue
        status = {
            "phase": "Running",
            "podIP": "10.1.2.3",
            "podIPs": [{"ip": "10.1.2.3"}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z"}],
            "containerStatuses": [
                {
                    "name": "engine",
                    "image": "engine",
                    "imageID": "",
                    "ready": True,
                    "restartCount": restarts,
                    "state": {"running": {}},
                }
            ],
        }
        patch = json.dumps({"status": status})
        name = pod["metadata"]["name"]
        kube.kubectl("-n", namespace, "patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)


MADE = "statefulsets,services,configmaps,pods,controllerrevisions,endpointslices"
ALL = [f"demo-multi-{index}-{position}" for index in range(2) for position in range(2)]


@pytest.mark.usefixtures("operator")
def test_leader_worker_role_becomes_pods_that_its_status_follows(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, leader_worker()))
    until("the pods", lambda: member_names(kube, namespace), lambda seen: seen == ALL)
    leader = kube.get(f"/api/v1/namespaces/{namespace}/pods/demo-multi-1-0")
    assert (leader["spec"]["hostname"], leader["spec"]["subdomain"]) == ("demo-multi-1-0", "s-demo-multi")
    make_ready(kube, namespace)
    until("Ready", lambda: condition(group(kube, namespace), "Ready"), lambda ready: ready.get("status") == "True")
    assert group(kube, namespace)["status"]["roleStatuses"] == [
        {"name": "multi", "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2}
    ]
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/s-demo-multi-leaders"
    until(
        "the leaders' names",
        lambda: [endpoint["hostname"] for endpoint in (kube.get(path) or {}).get("endpoints") or []],
        lambda seen: seen == ["demo-multi-0", "demo-multi-1"],
    )


@pytest.mark.usefixtures("operator")
def test_changed_leader_worker_role_is_rolled_by_instance(kube: Kube, namespace: str) -> None:
    def images() -> dict[str, str]:
        return {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in kube.pods(namespace)}

    kube.apply(rbg(namespace, leader_worker()))
    until("the pods", lambda: member_names(kube, namespace), lambda seen: seen == ALL)
    make_ready(kube, namespace)
    until("Ready", lambda: condition(group(kube, namespace), "Ready"), lambda ready: ready.get("status") == "True")
    kube.apply(rbg(namespace, leader_worker("engine:2")))
    half_rolled = {"demo-multi-1-0": "engine:2", "demo-multi-1-1": "engine:2"}
    seen = until("the first instance", images, lambda seen: half_rolled.items() <= seen.items() and len(seen) == 4)
    assert seen["demo-multi-0-0"] == "engine"
    make_ready(kube, namespace)
    until("the second instance", images, lambda seen: set(seen.values()) == {"engine:2"} and len(seen) == 4)


@pytest.mark.usefixtures("operator")
def test_restart_is_remembered_and_recreates_an_instance(kube: Kube, namespace: str) -> None:
    def uids() -> set[str]:
        return {pod["metadata"]["uid"] for pod in kube.pods(namespace)}

    kube.apply(rbg(namespace, leader_worker(replicas=1)))
    until("the pods", lambda: member_names(kube, namespace), lambda seen: seen == ALL[:2])
    make_ready(kube, namespace)
    until("Ready", lambda: condition(group(kube, namespace), "Ready"), lambda ready: ready.get("status") == "True")
    before = uids()
    # One alone: the operator deletes its instance at once, and the next might be gone before it is written to.
    make_ready(kube, namespace, restarts=1, only=ALL[0])
    until("new pods", uids, lambda seen: len(seen) == 2 and not seen & before)
    until("it is told", lambda: "InstanceRecreated" in {event["reason"] for event in kube.events(namespace, "demo")})


@pytest.mark.usefixtures("operator")
def test_template_rejected_by_the_api_server_takes_no_pod_away(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, leader_worker()))
    until("the pods", lambda: member_names(kube, namespace), lambda seen: seen == ALL)
    before = {pod["metadata"]["uid"] for pod in kube.pods(namespace)}
    invalid = leader_worker()
    invalid["leaderWorkerPattern"]["template"]["spec"]["restartPolicy"] = "Sometimes"
    kube.apply(rbg(namespace, invalid))
    until(
        "the verdict", lambda: condition(group(kube, namespace), "Ready"), lambda ready: ready["reason"] == "Rejected"
    )
    assert {pod["metadata"]["uid"] for pod in kube.pods(namespace)} == before


@pytest.mark.usefixtures("operator")
def test_fields_unknown_to_kubernetes_are_left_out_and_reported(kube: Kube, namespace: str) -> None:
    standalone, multi = role("worker"), leader_worker(replicas=1)
    for pattern in (standalone["standalonePattern"], multi["leaderWorkerPattern"]):
        pattern["template"]["spec"]["volumes"] = [{"name": "shm", "emptyDir": {}, "readinessProbe": {"a": 1}}]
    kube.apply(rbg(namespace, standalone, multi))
    workload = until("the StatefulSet", lambda: stateful_set(kube, namespace, "demo-worker"))
    assert workload["spec"]["template"]["spec"]["volumes"][0] == {"name": "shm", "emptyDir": {}}
    until("the pods", lambda: member_names(kube, namespace), lambda seen: seen == ALL[:2])

    def messages() -> str:
        return " ".join(
            event["message"] for event in kube.events(namespace, "demo") if event["reason"] == "DiffersFromSpec"
        )

    until("both said", messages, lambda text: text.count("readinessProbe") >= 2)


@pytest.mark.usefixtures("operator")
def test_group_that_is_handed_over_is_left_without_anything(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, role("worker"), leader_worker()))
    until("the pods", lambda: member_names(kube, namespace), lambda seen: seen == ALL)
    kube.kubectl("-n", namespace, "annotate", "rbg", "demo", "patio.dev/hand-over=true")
    until("nothing", lambda: kube.kubectl("-n", namespace, "get", MADE, "-o", "name"), lambda seen: seen == "")
    assert condition(group(kube, namespace), "Ready")["reason"] == "HandedOver"
    kube.kubectl("-n", namespace, "annotate", "rbg", "demo", "patio.dev/hand-over-")
    until("the pods", lambda: member_names(kube, namespace), lambda seen: seen == ALL)


@pytest.mark.usefixtures("operator")
def test_what_a_deleted_group_left_behind_is_adopted(kube: Kube, namespace: str) -> None:
    kube.apply(rbg(namespace, role("worker"), leader_worker()))
    until("the pods", lambda: member_names(kube, namespace), lambda seen: seen == ALL)
    before = {pod["metadata"]["uid"] for pod in kube.pods(namespace)}
    orphan = '{"metadata":{"ownerReferences":null}}'
    # no garbage collector runs here, which would do this for `kubectl delete --cascade=orphan`
    kube.kubectl("-n", namespace, "delete", "rbg", "demo", "--cascade=background")
    for name in kube.kubectl("-n", namespace, "get", MADE, "-o", "name").split():
        kube.kubectl("-n", namespace, "patch", name, "--type=merge", "-p", orphan)
    kube.apply(rbg(namespace, role("worker"), leader_worker()))
    uid = group(kube, namespace)["metadata"]["uid"]

    def owners() -> list[str]:
        return [owner["uid"] for pod in kube.pods(namespace) for owner in pod["metadata"].get("ownerReferences") or []]

    until("adopted", owners, lambda seen: seen == [uid] * 4)
    assert {pod["metadata"]["uid"] for pod in kube.pods(namespace)} == before

"""Profiles that change, on a real API server: what is counted, what is rolled and what stops a roll. No pod runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from patio_testing.kube import Kube, KubectlError, condition, until
from patio_testing.operator_process import OperatorProcess

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("webhooks")]

Object = dict[str, Any]

PROFILES = "/apis/workloads.x-k8s.io/v1alpha2/clusterengineruntimeprofiles"


def profile(name: str, image: str = "side:1", strategy: str = "RollingUpdate") -> Object:
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "ClusterEngineRuntimeProfile",
        "metadata": {"name": name},
        "spec": {"updateStrategy": strategy, "containers": [{"name": "side", "image": image}]},
    }


def template(profile_name: str, app: str) -> Object:
    return {
        "metadata": {"labels": {"patio.dev/profile": profile_name, "app": app}},
        "spec": {"containers": [{"name": "engine", "image": "engine"}]},
    }


def deploy(kube: Kube, namespace: str, profile_name: str, name: str) -> None:
    """A Deployment with one pod, as its controllers would make it."""
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template(profile_name, name)}
    metadata = {"name": name, "namespace": namespace}
    kube.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    make_pod(kube, namespace, profile_name, name)
    report(kube, namespace, name)


def make_pod(kube: Kube, namespace: str, profile_name: str, deployment: str, pod_hash: str = "1") -> None:
    pod = template(profile_name, deployment)
    pod["metadata"]["labels"]["pod-template-hash"] = pod_hash
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{deployment}-{pod_hash}", "uid": "x"}
    pod["metadata"] |= {"name": f"{deployment}-{pod_hash}", "namespace": namespace}
    pod["metadata"]["ownerReferences"] = [owner | {"controller": True}]
    kube.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Pod"} | pod))


def replace_pod(kube: Kube, namespace: str, profile_name: str, deployment: str, by: str) -> None:
    make_pod(kube, namespace, profile_name, deployment, by)
    kube.kubectl("-n", namespace, "delete", "pod", f"{deployment}-1", "--force", "--grace-period=0")


def report(kube: Kube, namespace: str, deployment: str, *conditions: Object, available: int = 1) -> None:
    """Write the status that the Deployment's controller would write."""
    status = {
        "observedGeneration": get(kube, namespace, deployment)["metadata"]["generation"],
        "replicas": 1,
        "updatedReplicas": 1,
        "readyReplicas": available,
        "availableReplicas": available,
        "conditions": list(conditions),
    }
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    kube.kubectl("-n", namespace, "patch", "deployment", deployment, *patch)


def get(kube: Kube, namespace: str, deployment: str) -> Any:
    return kube.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}")


def rolled(kube: Kube, namespace: str, deployment: str) -> Object:
    annotations = get(kube, namespace, deployment)["spec"]["template"]["metadata"].get("annotations") or {}
    revisions: Object = json.loads(annotations.get("patio.dev/rolled-profiles") or "{}")
    return revisions


def status(kube: Kube, name: str) -> Object:
    found: Object = kube.get(f"{PROFILES}/{name}").get("status") or {}
    return found


def reason(kube: Kube, name: str) -> str:
    return str(condition(kube.get(f"{PROFILES}/{name}"), "RolledOut").get("reason"))


def counts(kube: Kube, name: str) -> tuple[int, int, int]:
    now = status(kube, name)
    return now.get("pods", -1), now.get("currentPods", -1), now.get("behindPods", -1)


def test_status_counts_pods(kube: Kube, namespace: str) -> None:
    name = f"counted-{namespace}"
    kube.apply(profile(name, strategy="NoUpdate"))
    until("no pod", lambda: counts(kube, name), lambda current: current == (0, 0, 0))
    accepted = condition(kube.get(f"{PROFILES}/{name}"), "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("True", "DryRunPassed")
    deploy(kube, namespace, name, "web")
    until("one pod", lambda: counts(kube, name), lambda current: current == (1, 1, 0))
    kube.apply(profile(name, "side:2", "NoUpdate"))
    until("one behind", lambda: counts(kube, name), lambda current: current == (1, 0, 1))
    assert reason(kube, name) == "NoUpdate"
    assert rolled(kube, namespace, "web") == {}
    row = kube.kubectl("get", "clusterengineruntimeprofiles", name).splitlines()
    assert row[0].split() == ["NAME", "UPDATE", "PODS", "CURRENT", "BEHIND", "STATUS", "AGE"]
    assert row[1].split()[:6] == [name, "NoUpdate", "1", "0", "1", "NoUpdate"]


def test_status_that_has_not_changed_is_not_written(kube: Kube, namespace: str, webhooks: OperatorProcess) -> None:
    name = f"quiet-{namespace}"
    kube.apply(profile(name))
    deploy(kube, namespace, name, "web")
    until("one pod", lambda: counts(kube, name), lambda current: current == (1, 1, 0))
    version, before = kube.get(f"{PROFILES}/{name}")["metadata"]["resourceVersion"], passes(webhooks)

    pod = kube.get(f"/api/v1/namespaces/{namespace}/pods/web-1")
    injected = json.loads(pod["metadata"]["annotations"]["patio.dev/injected"])

    def touched() -> int:
        # What else changes in a pod wakes nobody.
        value = json.dumps(injected | {"another": str(passes(webhooks))})
        kube.kubectl("-n", namespace, "annotate", "pod", "web-1", f"patio.dev/injected={value}", "--overwrite")
        return passes(webhooks)

    until("many passes", touched, lambda current: current > before + 5)
    assert kube.get(f"{PROFILES}/{name}")["metadata"]["resourceVersion"] == version


def passes(operator: OperatorProcess) -> int:
    name = 'patio_operator_reconciles_total{kind="ClusterEngineRuntimeProfile",outcome="success"} '
    return next(
        int(float(line.removeprefix(name))) for line in operator.metrics().splitlines() if line.startswith(name)
    )


def test_change_rolls_one_workload_after_the_other(kube: Kube, namespace: str) -> None:
    name = f"rolled-{namespace}"
    kube.apply(profile(name))
    for deployment in ("one", "two"):
        deploy(kube, namespace, name, deployment)
    until("two pods", lambda: counts(kube, name), lambda current: current == (2, 2, 0))
    kube.apply(profile(name, "side:2"))
    revision = until("the first is rolled", lambda: rolled(kube, namespace, "one").get(name))
    assert revision == until(
        "the status", lambda: status(kube, name).get("revision"), lambda current: current == revision
    )
    replace_pod(kube, namespace, name, "one", "2")
    until("one is new", lambda: counts(kube, name), lambda current: current == (2, 1, 1))
    assert rolled(kube, namespace, "two") == {}, "the first is not up yet"
    report(kube, namespace, "one")
    until("the second is rolled", lambda: rolled(kube, namespace, "two").get(name), lambda current: current == revision)
    replace_pod(kube, namespace, name, "two", "2")
    report(kube, namespace, "two")
    until("all is new", lambda: reason(kube, name), lambda current: current == "UpToDate")
    until(
        "the events",
        lambda: {event["reason"] for event in kube.events("default", name)},
        lambda reasons: reasons == {"Rolling", "Rolled"},
    )


def test_rollout_stops_while_pods_are_not_ready_and_then_goes_on(kube: Kube, namespace: str) -> None:
    name = f"stopped-{namespace}"
    kube.apply(profile(name))
    for deployment in ("one", "two"):
        deploy(kube, namespace, name, deployment)
    until("two pods", lambda: counts(kube, name), lambda current: current == (2, 2, 0))
    kube.apply(profile(name, "side:2"))
    until("the first is rolled", lambda: rolled(kube, namespace, "one"))
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "no progress"}
    report(kube, namespace, "one", late, available=0)
    until("stopped", lambda: reason(kube, name), lambda current: current == "Stopped")
    assert f"Deployment {namespace}/one did not become ready: no progress" in status(kube, name)["lastError"]
    assert rolled(kube, namespace, "two") == {}
    replace_pod(kube, namespace, name, "one", "2")
    report(kube, namespace, "one")
    until("the second is rolled", lambda: rolled(kube, namespace, "two"))
    assert "lastError" not in until("going on", lambda: status(kube, name), lambda current: "lastError" not in current)
    until(
        "the events",
        lambda: {event["reason"]: event["type"] for event in kube.events("default", name)},
        lambda types: types == {"Rolling": "Normal", "Stopped": "Warning", "Resumed": "Normal"},
    )


def test_profile_stored_without_trial_reports_what_is_wrong(kube: Kube, namespace: str) -> None:
    name = f"untried-{namespace}"
    wrong = profile(name) | {"metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "patio"}}}
    wrong["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    kube.apply(wrong)
    message = until("the verdict", lambda: status(kube, name).get("lastError"))
    assert "spec.containers[0].imagePulPolicy: unknown field" in message


def test_stateful_set_of_a_group_is_rolled_and_stays_rolled(kube: Kube, namespace: str) -> None:
    name = f"group-{namespace}"
    kube.apply(profile(name))
    kube.apply(group(namespace, name, replicas=1))
    workload = until("the StatefulSet", lambda: stateful_set(kube, namespace))
    pod = {"apiVersion": "v1", "kind": "Pod", **workload["spec"]["template"]}
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "g-worker", "uid": "x", "controller": True}
    pod["metadata"] |= {"name": "g-worker-0", "namespace": namespace, "ownerReferences": [owner]}
    kube.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    until("one pod", lambda: counts(kube, name), lambda current: current == (1, 1, 0))
    kube.apply(profile(name, "side:2"))
    until("it is rolled", lambda: mark(stateful_set(kube, namespace)))
    kube.apply(group(namespace, name, replicas=3))
    until("the group goes on", lambda: stateful_set(kube, namespace)["spec"]["replicas"], lambda current: current == 3)
    assert name in mark(stateful_set(kube, namespace))


def group(namespace: str, profile_name: str, *, replicas: int) -> Object:
    pod = {"containers": [{"name": "engine", "image": "engine"}]}
    role = {
        "name": "worker",
        "replicas": replicas,
        "engineRuntimes": [{"profileName": profile_name}],
        "standalonePattern": {"template": {"spec": pod}},
    }
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "RoleBasedGroup",
        "metadata": {"name": "g", "namespace": namespace},
        "spec": {"roles": [role]},
    }


def stateful_set(kube: Kube, namespace: str) -> Any:
    return kube.get(f"/apis/apps/v1/namespaces/{namespace}/statefulsets/g-worker")


def mark(workload: Object) -> str:
    annotations = workload["spec"]["template"]["metadata"].get("annotations") or {}
    return str(annotations.get("patio.dev/rolled-profiles") or "")


def test_leader_worker_role_is_rolled_instance_by_instance(kube: Kube, namespace: str) -> None:
    name = f"leaders-{namespace}"
    kube.apply(profile(name))
    kube.apply(leader_worker_group(namespace, name))

    def leaders() -> dict[str, tuple[str, str]]:
        """Image of the sidecar and UID of each leader."""
        return {
            pod["metadata"]["name"]: (
                next(container["image"] for container in pod["spec"]["containers"] if container["name"] == "side"),
                pod["metadata"]["uid"],
            )
            for pod in kube.pods(namespace)
            if pod["metadata"]["name"].endswith("-0") and "deletionTimestamp" not in pod["metadata"]
        }

    until("two instances", leaders, lambda found: sorted(found) == ["g-multi-0-0", "g-multi-1-0"])

    def ready() -> str:
        make_ready(kube, namespace)  # each time: a leader's worker is created some time after its leader
        return str(condition(group_object(kube, namespace), "Ready").get("status"))

    until("the group Ready", ready, lambda current: current == "True")
    until("two pods", lambda: counts(kube, name), lambda current: current == (2, 2, 0))
    kube.apply(profile(name, "side:2"))
    half_rolled = until("one is new", leaders, lambda found: found.get("g-multi-1-0", ("",))[0] == "side:2")
    assert half_rolled["g-multi-0-0"][0] == "side:1"
    assert reason(kube, name) == "Rolling"

    def reason_and_leaders() -> tuple[str, dict[str, tuple[str, str]]]:
        make_ready(kube, namespace)
        return reason(kube, name), leaders()

    _, both_new = until("all is new", reason_and_leaders, lambda found: found[0] == "UpToDate")
    assert sorted(both_new) == ["g-multi-0-0", "g-multi-1-0"]
    assert {image for image, _ in both_new.values()} == {"side:2"}


def group_object(kube: Kube, namespace: str) -> Object:
    found: Object = kube.get(f"/apis/workloads.x-k8s.io/v1alpha2/namespaces/{namespace}/rolebasedgroups/g")
    return found


def leader_worker_group(namespace: str, profile_name: str) -> Object:
    body = group(namespace, profile_name, replicas=2)
    spec = {"containers": [{"name": "engine", "image": "engine"}]}
    body["spec"]["roles"] = [
        {
            "name": "multi",
            "replicas": 2,
            "engineRuntimes": [{"profileName": profile_name}],
            "leaderWorkerPattern": {"size": 2, "template": {"spec": spec}},
        }
    ]
    return body


def make_ready(kube: Kube, namespace: str) -> None:
    """Write the status that kubelets would write, to the pods that are there and not being deleted."""
    patch = json.dumps({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
    for pod in kube.pods(namespace):
        if "deletionTimestamp" in pod["metadata"]:
            continue
        arguments = ("--subresource=status", "--type=merge", "-p", patch)
        try:
            kube.kubectl("-n", namespace, "patch", "pod", pod["metadata"]["name"], *arguments)
        except KubectlError as error:
            if "NotFound" not in str(error):  # deleted since it was listed
                raise

"""A changed profile is rolled by real controllers: one workload after the other, each by its own strategy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from patio_testing.environment import Engine, group, log_progress, wait_for_pods
from patio_testing.kube import Kube, condition, is_ready, until

pytestmark = pytest.mark.cluster

PROFILE = "rolled"
PATH = "/apis/workloads.x-k8s.io/v1alpha2/clusterengineruntimeprofiles"
WORKLOADS = ("deployment", "statefulset", "group", "leaders")
REPLICAS = 2


def profile(kube: Kube, version: str) -> dict[str, Any]:
    """The chart's own profile under another name, to be rolled, with a variable that says which version it is."""
    spec = kube.get(f"{PATH}/patio")["spec"]
    (sidecar,) = spec["initContainers"]
    sidecar["env"] = [{"name": "VERSION", "value": version}]
    metadata = {"name": PROFILE}
    spec["updateStrategy"] = "RollingUpdate"
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "ClusterEngineRuntimeProfile",
        "metadata": metadata,
        "spec": spec,
    }


def plain(kind: str, namespace: str, engine: Engine) -> dict[str, Any]:
    """A Deployment or a StatefulSet of engines that ask for the profile."""
    name = kind.lower()
    labels = {"workload": name}
    spec = {
        "replicas": REPLICAS,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels | {"patio.dev/profile": PROFILE}}, "spec": engine.pod_spec()},
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}


def realised(namespace: str, engine: Engine) -> dict[str, Any]:
    """A RoleBasedGroup of the same, and of leaders with a worker each."""
    body = group(engine, namespace, replicas=REPLICAS)
    (role,) = body["spec"]["roles"]
    role["engineRuntimes"] = [{"profileName": PROFILE}]
    template = role["standalonePattern"]["template"]
    led = {"metadata": {"labels": {"workload": "leaders"}}, **template}
    template["metadata"] = {"labels": {"workload": "group"}}
    pattern = {"leaderWorkerPattern": {"size": 2, "template": led}}
    others = {key: value for key, value in role.items() if key != "standalonePattern"}
    body["spec"]["roles"].append(others | {"name": "led"} | pattern)
    return body


def versions(kube: Kube, namespace: str) -> dict[str, list[tuple[str, bool]]]:
    """Return version and readiness of the injected pods of each workload, without those that are on their way out."""
    found: dict[str, list[tuple[str, bool]]] = {name: [] for name in WORKLOADS}
    for pod in kube.pods(namespace, "patio.dev/injected=true"):
        if "deletionTimestamp" not in pod["metadata"]:
            (sidecar,) = [container for container in pod["spec"]["initContainers"] if container["name"] == "patio"]
            (version,) = [variable["value"] for variable in sidecar["env"] if variable["name"] == "VERSION"]
            found[pod["metadata"]["labels"]["workload"]].append((version, is_ready(pod)))
    return found


@pytest.fixture
def rolled_profile(kube: Kube) -> Iterator[None]:
    kube.apply(profile(kube, "1"))
    yield
    kube.kubectl("delete", "clusterengineruntimeprofile", PROFILE)


@pytest.mark.usefixtures("rolled_profile")
def test_changed_profile_is_rolled_one_workload_at_a_time(
    kube: Kube, double: Engine, make_namespace: Callable[[str], str]
) -> None:
    namespace = make_namespace("rolled")
    workloads = [plain("Deployment", namespace, double), plain("StatefulSet", namespace, double)]
    kube.apply(*workloads, realised(namespace, double))
    # A worker for each leader.
    wait_for_pods(kube, namespace, len(WORKLOADS) * REPLICAS + REPLICAS, within=90)
    new, old = [("2", True)] * REPLICAS, [("1", True)] * REPLICAS
    order: list[str] = []
    began = time.monotonic()
    kube.apply(profile(kube, "2"))

    def look() -> dict[str, list[tuple[str, bool]]]:
        seen = versions(kube, namespace)
        in_progress = [name for name, pods in seen.items() if sorted(pods) not in (old, new)]
        assert len(in_progress) <= 1, seen
        order.extend(name for name in in_progress if name not in order)
        serving = {name: sum(ready for _, ready in pods) for name, pods in seen.items()}
        assert min(serving.values()) >= REPLICAS - 1, seen
        assert serving["deployment"] >= REPLICAS, "a Deployment of two brings the new pod first"
        return seen

    until("all pods are new", look, lambda seen: all(sorted(pods) == new for pods in seen.values()), within=200)
    log_progress(f"rolled {', '.join(order)} in {time.monotonic() - began:.0f} s")
    assert sorted(order) == sorted(WORKLOADS)
    done = until(
        "the profile says so",
        lambda: kube.get(f"{PATH}/{PROFILE}"),
        lambda profile: condition(profile, "RolledOut").get("reason") == "UpToDate",
        within=20,
    )
    assert (done["status"]["pods"], done["status"]["currentPods"]) == 2 * (len(WORKLOADS) * REPLICAS,)

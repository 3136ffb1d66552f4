"""Upstream's own manifests on a real cluster: every group comes up as it is described, or is refused with a reason.

A representative set; PATIO_TEST_ALL_SAMPLES=1 runs every one. `sample_groups` says what is changed in them first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from e2e_engine.__main__ import model_directory
from patio_testing import sample_groups
from patio_testing.environment import log_progress
from patio_testing.kube import Kube, condition, until
from patio_testing.sample_groups import Role
from patio_testing.upstream_samples import SAMPLES

pytestmark = pytest.mark.cluster

ROUTINE = {
    "basic/engine-runtime/engine-runtime-profile.yaml",  # a profile that is not Patio's own, injectContainers
    "basic/rbg/dependency/role-dependencies.yaml",  # three groups
    "basic/rbg/patterns/custom-components-pattern.yaml",  # refused
    "basic/rbg/patterns/leader-worker-pattern.yaml",  # role templates, patches of leaders and workers
    "deprecated/v1alpha1/basics/rbg-with-lws-workload.yaml",
    "deprecated/v1alpha1/pd-disagg/sglang/patio-profile.yaml",
    "deprecated/v1alpha1/pd-disagg/sglang/sglang-pd.yaml",  # Patio's sidecar registers the workers
    "inference/ecosystem/mooncake/mooncake-store/pd-disagg-kvcache-reuse-with-mooncake.yaml",  # a chain of dependencies
    "inference/ecosystem/mooncake/mooncake-transfer-engine/vllm-pd-disagg-with-mooncake-te.yaml",
    "inference/pd-disagg-leader-worker.yaml",  # engines of several pods, behind a router
}
PROFILE_OF = {"sglang-pd.yaml": "patio-profile.yaml"}
"""Samples that need a profile from a file beside them."""
PROFILES = ("nvidia-runtime-profile", "sglang-pd-runtime")

ASK = """
import json, os, socket, sys
def address(name):
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        return str(error)
print(json.dumps([dict(os.environ), {name: address(name) for name in sys.argv[1:]}]))
"""


def chosen() -> list[str]:
    every = sorted(str(path.relative_to(SAMPLES)) for path in SAMPLES.rglob("*.yaml"))
    return (
        every if os.environ.get("PATIO_TEST_ALL_SAMPLES") == "1" else [sample for sample in every if sample in ROUTINE]
    )


@pytest.fixture(scope="module", autouse=True)
def delete_profiles_afterwards(kube: Kube) -> Iterator[None]:
    yield
    kube.kubectl("delete", "clusterengineruntimeprofiles", "--ignore-not-found", *PROFILES)


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    number = chosen().index(request.node.callspec.params["sample"])
    name = f"sample-{number}"
    kube.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=true", "--timeout=120s")
    kube.kubectl("create", "namespace", name)
    yield name
    kube.kubectl("delete", "namespace", name, "--wait=false")
    kube.kubectl("delete", "persistentvolumes", "--selector", f"of={name}", "--ignore-not-found", "--wait=false")


@pytest.mark.parametrize("sample", chosen())
def test_sample_becomes_ready_or_is_rejected_with_a_reason(kube: Kube, namespace: str, sample: str) -> None:
    documents = objects(SAMPLES / sample, namespace)
    kube.apply(*documents)
    for document in documents:
        if document["kind"] == "RoleBasedGroup":
            log_progress(f"{sample}: {verdict(kube, namespace, document['metadata']['name'])}")


def objects(path: Path, namespace: str) -> list[dict[str, Any]]:
    """Return all that a sample needs."""
    found = sample_groups.documents(path, namespace)
    if path.name in PROFILE_OF:
        found = [*sample_groups.documents(path.with_name(PROFILE_OF[path.name]), namespace), *found]
    claims = [body for body in found if body["kind"] == "PersistentVolumeClaim"]
    return [*(sample_groups.volume(claim, model_directory()) for claim in claims), *found]


def verdict(kube: Kube, namespace: str, name: str) -> str:
    """Wait until a group is up or refused, look at everything that it is made of, and say what it is."""
    path = f"/apis/workloads.x-k8s.io/v1alpha2/namespaces/{namespace}/rolebasedgroups/{name}"
    group = until(
        f"{name} up or refused",
        lambda: kube.get(path),
        lambda group: condition(group, "Ready").get("reason") in ("AllRolesReady", "Unsupported"),
        within=120,
    )
    ready, roles = condition(group, "Ready"), sample_groups.roles(group)
    pods = kube.pods(namespace, f"rbg.workloads.x-k8s.io/group-name={name}")
    if ready["reason"] == "Unsupported":
        assert not pods
        return f"{name}: refused: {ready['message']}"
    for role in roles:
        of_role = [pod for pod in pods if pod["metadata"]["labels"]["rbg.workloads.x-k8s.io/role-name"] == role.name]
        check_pods(name, role, of_role)
        check_what_they_know(kube, namespace, name, role, of_role)
        check_order(role, of_role, pods)
    registered = {f"http://{pod['status']['podIP']}:8000" for pod in pods if has_sidecar(pod)}
    served = [serve(kube, namespace, pod, registered) for pod in pods if is_router(pod)]
    return f"{name}: {len(pods)} pods of {len(roles)} roles" + "".join(f"; {line}" for line in served)


def check_pods(group: str, role: Role, pods: list[dict[str, Any]]) -> None:
    """Names, labels, and the sidecar where the role asks for one."""
    assert {pod["metadata"]["name"] for pod in pods} == role.pods(group)
    for pod in pods:
        labels, spec = pod["metadata"]["labels"], pod["spec"]
        assert labels["rolebasedgroup.workloads.x-k8s.io/name"] == group
        assert labels["rolebasedgroup.workloads.x-k8s.io/role"] == role.name
        assert labels.get("patio.dev/injected") == ("true" if role.profiles else None)
        names = {container["name"] for container in spec["containers"]} | {
            container["name"] for container in spec.get("initContainers") or ()
        }
        assert {"patio-runtime"} & names == ({"patio-runtime"} if "sglang-pd-runtime" in role.profiles else set())
        assert {"gpu-monitor", "gpu-driver-init"} <= names or "nvidia-runtime-profile" not in role.profiles


def check_what_they_know(kube: Kube, namespace: str, group: str, role: Role, pods: list[dict[str, Any]]) -> None:
    """Variables of both families, and the names of the role's pods, as its last pod sees them."""
    last = max(pods, key=lambda pod: str(pod["metadata"]["name"]))
    name, service = last["metadata"]["name"], f"s-{group}-{role.name}"
    addresses = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods}
    instance, position = (name, None) if role.size is None else name.rsplit("-", 1)
    leader = instance if role.size is None else f"{instance}-0"
    known = {f"{leader}.{service}": addresses[leader], f"{instance}.{service}": addresses[leader]}
    command = ("/opt/patio/bin/python3", "-c", ASK, *known)
    container = last["spec"]["containers"][0]["name"]

    def look() -> Any:
        return json.loads(kube.kubectl("-n", namespace, "exec", name, "-c", container, "--", *command))

    # CoreDNS caches for some seconds that a name was not there.
    environment, _ = until(f"{name} knows {known}", look, lambda seen: seen[1] == known, within=40)
    index = instance.rpartition("-")[2]
    expected = {"GROUP_NAME": group, "ROLE_NAME": role.name, "ROLE_INDEX": index}
    expected |= {f"RBG_{key}": value for key, value in expected.items()}
    if position is not None:
        address = f"{leader}.{service}.{namespace}"
        for prefix in ("LWS", "RBG_LWP"):
            expected |= {f"{prefix}_LEADER_ADDRESS": address, f"{prefix}_WORKER_INDEX": position}
            expected |= {f"{prefix}_GROUP_SIZE": str(role.size)}
    assert {key: environment.get(key) for key in expected} == expected


def check_order(role: Role, pods: list[dict[str, Any]], all_pods: list[dict[str, Any]]) -> None:
    """Pods of a role were made after those of the roles that it depends on were ready."""
    for pod in all_pods:
        if pod["metadata"]["labels"]["rbg.workloads.x-k8s.io/role-name"] in role.dependencies:
            ready = moment(condition(pod, "Ready")["lastTransitionTime"])
            assert all(moment(pod["metadata"]["creationTimestamp"]) >= ready for pod in pods)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def is_router(pod: dict[str, Any]) -> bool:
    return "launch_router" in json.dumps(pod["spec"]["containers"][0].get("command") or [])


def has_sidecar(pod: dict[str, Any]) -> bool:
    return "patio-runtime" in {container["name"] for container in pod["spec"]["containers"]}


def serve(kube: Kube, namespace: str, router: dict[str, Any], registered: set[str]) -> str:
    """Have the router's workers complete a prompt: those that sidecars have registered, where there are sidecars."""
    name = router["metadata"]["name"]

    def ask(method: str, path: str, body: Any = None) -> Callable[[], Any]:
        def send() -> Any:
            return kube.to_pod(method, namespace, name, 8000, path, body).raise_for_status().json()

        return send

    def healthy(seen: dict[str, Any]) -> bool:
        kinds = {worker["worker_type"] for worker in seen["workers"] if worker["is_healthy"]}
        return {"prefill", "decode"} <= kinds

    workers = until("workers of both kinds", ask("GET", "/workers"), healthy, within=60)["workers"]
    (model,) = {worker["model_id"] for worker in workers}
    body = {"model": model, "prompt": "once upon a time", "max_tokens": 4}
    answer = until(f"{name} serves {model}", ask("POST", "/v1/completions", body), within=30)
    assert answer["usage"]["completion_tokens"] == 4
    urls = {worker["url"] for worker in workers}
    assert not registered or urls == registered
    return f"{name} served {answer['choices'][0]['text']!r} through {', '.join(sorted(urls))}"

"""LoraAdapters on a real cluster, with the engine double: what users see when things go well and when they do not."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from patio_testing.environment import ADAPTERS, PROMPT, Engine, group, lora_adapter, wait_for_adapter, wait_for_pods
from patio_testing.kube import Kube, condition, is_ready, until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def namespace(kube: Kube, double: Engine, make_namespace: Callable[[str], str]) -> str:
    """A namespace with a group of one engine, Ready."""
    name = make_namespace("double")
    kube.apply(group(double, name))
    wait_for_pods(kube, name, 1, within=60)
    return name


def test_sidecar_is_in_the_pod_and_not_in_group_or_statefulset(kube: Kube, namespace: str) -> None:
    (pod,) = kube.pods(namespace)
    assert [container["name"] for container in pod["spec"]["containers"]] == ["engine"]
    (sidecar,) = [container for container in pod["spec"]["initContainers"] if container["name"] == "patio"]
    assert sidecar["restartPolicy"] == "Always"
    stateful_set = kube.get(f"/apis/apps/v1/namespaces/{namespace}/statefulsets/demo-worker")
    rbg = kube.get(f"/apis/workloads.x-k8s.io/v1alpha2/namespaces/{namespace}/rolebasedgroups/demo")
    template = stateful_set["spec"]["template"]["spec"]
    assert [container["name"] for container in template["containers"]] == ["engine"]
    assert not template.get("initContainers")
    assert "initContainers" not in rbg["spec"]["roles"][0]["standalonePattern"]["template"]["spec"]


def test_group_says_it_is_ready(kube: Kube, namespace: str) -> None:
    path = f"/apis/workloads.x-k8s.io/v1alpha2/namespaces/{namespace}/rolebasedgroups/demo"
    rbg = until("the group Ready", lambda: kube.get(path), is_ready, within=20)
    assert condition(rbg, "Ready")["reason"] == "AllRolesReady"
    assert rbg["status"]["roleStatuses"] == [
        {"name": "worker", "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
    ]


def test_pod_has_a_stable_name_in_dns(kube: Kube, namespace: str) -> None:
    look_up = "import socket; print(socket.gethostbyname('demo-worker-0.s-demo-worker'))"
    (pod,) = kube.pods(namespace)
    found = until(
        "the pod's name resolves",
        lambda: kube.kubectl("-n", namespace, "exec", "demo-worker-0", "-c", "engine", "--", "python", "-c", look_up),
        within=30,
    )
    assert found.strip() == pod["status"]["podIP"]


def test_declared_adapter_answers_and_deleted_one_is_unloaded(kube: Kube, namespace: str, double: Engine) -> None:
    kube.apply(lora_adapter(namespace, "sql", ADAPTERS["lora-a"]))
    wait_for_adapter(kube, namespace, "sql")
    assert kube.models(namespace, "demo-worker-0")["sql"] == ADAPTERS["lora-a"]
    base = kube.complete(namespace, "demo-worker-0", "tiny", PROMPT)
    assert kube.complete(namespace, "demo-worker-0", "sql", PROMPT) != base
    events = until("the event", lambda: kube.events(namespace, "sql"), within=10)
    assert "Loaded" in {event["reason"] for event in events}

    kube.kubectl("-n", namespace, "delete", "loraadapter", "sql", "--timeout=30s")
    assert "sql" not in kube.models(namespace, "demo-worker-0")
    assert kube.lora_adapter(namespace, "sql") is None


def test_kubectl_shows_the_adapter_in_columns(kube: Kube, namespace: str, double: Engine) -> None:
    kube.apply(lora_adapter(namespace, "columns", ADAPTERS["lora-a"]))
    wait_for_adapter(kube, namespace, "columns")
    header, row = kube.kubectl("-n", namespace, "get", "lora").splitlines()
    assert header.split()[:2] == ["NAME", "ADAPTER"]
    assert row.split()[0] == "columns"
    assert "Loaded" in row
    kube.kubectl("-n", namespace, "delete", "lora", "columns", "--timeout=30s")


def test_missing_path_is_reported_by_the_engine_and_recovers(kube: Kube, namespace: str, double: Engine) -> None:
    kube.apply(lora_adapter(namespace, "lost", "/adapters/nowhere"))
    failed = until(
        "LoraAdapter lost failed",
        lambda: kube.lora_adapter(namespace, "lost"),
        lambda adapter: adapter is not None and condition(adapter, "Degraded").get("status") == "True",
    )
    assert failed is not None
    assert "No adapter found for /adapters/nowhere" in condition(failed, "Ready")["message"]
    assert failed["status"]["failedReplicas"] == 1
    events = until(
        "a warning about it",
        lambda: [event for event in kube.events(namespace, "lost") if event["type"] == "Warning"],
        within=10,
    )
    assert "No adapter found for /adapters/nowhere" in events[0]["message"]
    (pod,) = kube.pods(namespace)
    assert is_ready(pod), "one bad adapter must not take the pod away"

    kube.apply(lora_adapter(namespace, "lost", ADAPTERS["lora-a"]))
    wait_for_adapter(kube, namespace, "lost")
    kube.kubectl("-n", namespace, "delete", "lora", "lost", "--timeout=30s")


def test_killed_engine_gets_its_adapter_back_and_status_follows(kube: Kube, namespace: str, double: Engine) -> None:
    kube.apply(lora_adapter(namespace, "sql", ADAPTERS["lora-a"]))
    wait_for_adapter(kube, namespace, "sql")
    crash(kube, namespace, "demo-worker-0")
    until(
        "LoraAdapter sql not Ready",
        lambda: kube.lora_adapter(namespace, "sql"),
        lambda adapter: adapter is not None and not is_ready(adapter),
        within=15,
    )
    wait_for_adapter(kube, namespace, "sql", within=60)
    assert "sql" in kube.models(namespace, "demo-worker-0")
    until(
        "the restart is counted",
        lambda: [status["restartCount"] for status in kube.pods(namespace)[0]["status"]["containerStatuses"]],
        lambda counts: counts == [1],
    )


def test_new_pod_is_not_ready_before_it_has_the_adapter(kube: Kube, namespace: str, slow_double: Engine) -> None:
    kube.apply(group(slow_double, namespace, name="slow"))
    first = f"/api/v1/namespaces/{namespace}/pods/slow-worker-0"
    until("slow-worker-0 Ready", lambda: kube.get(first), lambda pod: bool(pod) and is_ready(pod))
    role = {"group": "slow", "role": "worker"}
    kube.apply(lora_adapter(namespace, "late", ADAPTERS["lora-a"], roleRef=role))
    wait_for_adapter(kube, namespace, "late")
    kube.apply(group(slow_double, namespace, name="slow", replicas=2))
    seen_unready_while_loading = False

    def look() -> bool:
        nonlocal seen_unready_while_loading
        pod = kube.get(f"/api/v1/namespaces/{namespace}/pods/slow-worker-1")
        if not pod or not is_ready(pod):
            running = bool(pod) and any(
                status["ready"] for status in (pod.get("status") or {}).get("containerStatuses") or []
            )
            seen_unready_while_loading = seen_unready_while_loading or running
            return False
        assert "late" in kube.models(namespace, "slow-worker-1"), "Ready, though the adapter is not there"
        return True

    until("slow-worker-1 Ready", look, within=60)
    assert seen_unready_while_loading, "the engine was never seen running without the pod being Ready"
    adapter = wait_for_adapter(kube, namespace, "late")
    assert adapter["status"]["readyReplicas"] == 2


def test_pod_label_is_enough_for_any_workload(kube: Kube, namespace: str, double: Engine) -> None:
    kube.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "plain", "namespace": namespace},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "plain"}},
                "template": {
                    "metadata": {"labels": {"app": "plain", "patio.dev/profile": "patio"}},
                    "spec": double.pod_spec(),
                },
            },
        },
        lora_adapter(namespace, "by-label", ADAPTERS["lora-a"], selector={"matchLabels": {"app": "plain"}}),
    )
    adapter = wait_for_adapter(kube, namespace, "by-label", within=60)
    assert adapter["status"]["desiredReplicas"] == 1
    (pod,) = kube.pods(namespace, "app=plain")
    assert "by-label" in kube.models(namespace, pod["metadata"]["name"])


def test_pod_that_asks_for_an_unknown_profile_is_rejected(kube: Kube, namespace: str) -> None:
    with pytest.raises(AssertionError, match="no-such-profile"):
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "x", "namespace": namespace, "labels": {"patio.dev/profile": "no-such-profile"}},
                "spec": {"containers": [{"name": "x", "image": "x"}]},
            }
        )


def test_object_that_the_schema_rejects_is_rejected_at_apply(kube: Kube, namespace: str) -> None:
    role, selector = {"group": "demo", "role": "worker"}, {"matchLabels": {"app": "x"}}
    with pytest.raises(AssertionError, match="exactly one of selector and roleRef"):
        kube.apply(lora_adapter(namespace, "bad", "/x", roleRef=role, selector=selector))
    with pytest.raises(AssertionError, match="uri must be one of hf://org/repo"):
        kube.apply(lora_adapter(namespace, "bad", "ftp://example.com/adapter"))


CALLS = """
import json, sys, urllib.error, urllib.request
for method, url, body in json.loads(sys.argv[1]):
    headers = {"content-type": "application/json"}
    call = urllib.request.Request(url, body and body.encode(), headers, method=method)
    try:
        print(urllib.request.urlopen(call, timeout=60).status)
    except urllib.error.HTTPError as refused:
        print(refused.code)
"""
"""Makes calls from inside a pod and prints their statuses."""


def test_unsigned_change_from_another_pod_gets_401_and_no_effect(kube: Kube, namespace: str, double: Engine) -> None:
    """The adapters of this module are loaded by the operator's signed calls, which come from another address too."""
    kube.apply(lora_adapter(namespace, "guarded", ADAPTERS["lora-a"]))
    wait_for_adapter(kube, namespace, "guarded")
    stranger = f"/api/v1/namespaces/{namespace}/pods/stranger"
    metadata = {"name": "stranger", "namespace": namespace}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": double.pod_spec()})
    until("the stranger Ready", lambda: kube.get(stranger), lambda pod: bool(pod) and is_ready(pod))
    worker = f"/api/v1/namespaces/{namespace}/pods/demo-worker-0"
    sidecar = f"http://{kube.get(worker)['status']['podIP']}:9091"
    before = kube.models(namespace, "demo-worker-0")
    load = json.dumps({"lora_name": "intruder", "lora_path": ADAPTERS["lora-b"]})
    unload = json.dumps({"lora_name": "guarded"})
    calls = [
        ("POST", f"{sidecar}/v1/load_lora_adapter", load),
        ("POST", f"{sidecar}/load_lora_adapter", load),
        ("POST", f"{sidecar}/v1/unload_lora_adapter", unload),
        ("POST", f"{sidecar}/unload_lora_adapter", unload),
        ("POST", f"{sidecar}/v1/download_model", "{}"),
        ("POST", f"{sidecar}/v1/drain", None),
        ("GET", f"{sidecar}/v1/drain", None),
    ]
    command = ("exec", "stranger", "-c", "engine", "--", "python", "-c", CALLS, json.dumps(calls))
    assert kube.kubectl("-n", namespace, *command).split() == ["401"] * len(calls)
    assert kube.models(namespace, "demo-worker-0") == before
    assert is_ready(kube.get(worker)), "a drain that is refused takes no pod out of service"
    kube.kubectl("-n", namespace, "delete", "pod/stranger", "lora/guarded", "--timeout=30s")


def test_sidecar_gives_the_engine_metrics_under_patio_names(kube: Kube, namespace: str) -> None:
    text = kube.to_pod("GET", namespace, "demo-worker-0", 9091, "/metrics").text
    for name in ("num_requests_running", "input_tokens_total", "time_to_first_token_seconds_bucket"):
        assert f"\npatio:{name}{{" in text
    assert "\npatio:engine_up 1" in text


def test_operator_comes_back_to_what_it_finds(kube: Kube, namespace: str, double: Engine) -> None:
    kube.kubectl("-n", "patio-system", "scale", "deployment", "--all", "--replicas=0")
    until("no operator", lambda: kube.pods("patio-system"), lambda pods: not pods)
    kube.apply(lora_adapter(namespace, "meanwhile", ADAPTERS["lora-b"]))
    assert "sql" in kube.models(namespace, "demo-worker-0"), "what is loaded stays without the operator"
    kube.kubectl("-n", "patio-system", "scale", "deployment", "--all", "--replicas=2")
    wait_for_adapter(kube, namespace, "meanwhile", within=60)


def crash(kube: Kube, namespace: str, pod: str) -> None:
    """Have the double in a pod die as by SIGKILL."""
    response = kube.to_pod("POST", namespace, pod, 8000, "/_double/crash")
    assert response.status_code in (200, 202, 204, 502, 503), response.text

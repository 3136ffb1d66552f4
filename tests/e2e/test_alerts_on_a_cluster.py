"""Each critical alert fires in a real fault, and the first command of its runbook shows the cause.

The rules are those that the chart makes, twice in one Prometheus: as they are, and as a copy in which every duration is
twenty times shorter (`for`, ranges, offsets), at least four scrapes. The copy is what fires here; thresholds and
expressions are the same.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from patio_observability.alerts import ALERTS
from patio_testing.environment import (
    ADAPTERS,
    BASE_MODEL,
    PROMPT,
    SYSTEM_NAMESPACE,
    Engine,
    deployment,
    lora_adapter,
    routed_group,
    tell,
    wait_for_pods,
)
from patio_testing.kube import Kube, condition, is_ready, until
from patio_testing.load_client import start_clients
from patio_testing.prometheus import Prometheus, hastened

from .chaos import kill_in_pod, signal_in_pod

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("PATIO_TEST_LONG") != "1", reason="builds Prometheus: PATIO_TEST_LONG=1"),
]

TIMES = 20
"""How many times shorter the durations of the copy are."""
WITHIN = 60.0
"""Seconds to the alert: its range and its `for` in the copy are 45 at most."""
LEASE = "patio-operator"
RIGHTS = "patio-operator"

Fires = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def fires(kube: Kube, monitored: Prometheus) -> Iterator[Fires]:
    """Return what waits until an alert fires in a namespace, and tells how long that took."""
    rules = kube.get(f"/apis/monitoring.coreos.com/v1/namespaces/{SYSTEM_NAMESPACE}/prometheusrules/patio")
    kube.apply(hastened(rules, "hastened", TIMES))
    until("the copy is evaluated", lambda: monitored.query("ALERTS or vector(0)"))

    def wait(alert: str, namespace: str | None, meanwhile: Callable[[], None] = lambda: None) -> dict[str, str]:
        began = time.monotonic()

        def seen() -> list[dict[str, str]]:
            meanwhile()
            return [
                one
                for one in monitored.firing()
                if one["alertname"] == alert and "hastened" in one and namespace in (None, one.get("namespace"))
            ]

        labels = until(f"{alert} fires", seen, within=WITHIN)[0]
        tell(f"{alert}: {time.monotonic() - began:.0f} s after the fault, durations {TIMES} times shorter")
        return labels

    yield wait
    kube.kubectl("-n", SYSTEM_NAMESPACE, "delete", "prometheusrule", "hastened")


def first_command(kube: Kube, alert: str, namespace: str = "", pod: str = "", **names: str) -> str:
    """Run the first command of an alert's runbook as a person would, and return what it prints."""
    (found,) = [one for one in ALERTS if one.name == alert]
    command = found.runbook.look[0].command
    for name, value in {"NAMESPACE": namespace, "POD": pod, "ENGINE": "engine", **names}.items():
        command = command.replace(name, value)
    path = f"{kube.kubectl_binary.parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "KUBECONFIG": str(kube.kubeconfig)}
    if "localhost:9091" not in command:
        return _shell(command, variables)
    with forwarded(kube, namespace, pod) as address:
        return _shell(command.replace("localhost:9091", address), variables)


def _shell(command: str, variables: dict[str, str]) -> str:
    done = subprocess.run(["sh", "-c", command], env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def forwarded(kube: Kube, namespace: str, pod: str) -> Iterator[str]:
    """The sidecar's port of a pod on this machine, by kubectl port-forward."""
    process = subprocess.Popen(
        [*_kubectl(kube, namespace), "port-forward", pod, ":9091"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[2]
    finally:
        process.terminate()
        process.wait()


def _kubectl(kube: Kube, namespace: str) -> list[str]:
    return [str(kube.kubectl_binary), f"--kubeconfig={kube.kubeconfig}", f"--namespace={namespace}"]


def one_engine(kube: Kube, engine: Engine, namespace: str) -> str:
    """Make a Deployment of one engine and return its pod, once Prometheus could have seen its engine up."""
    kube.apply(deployment(engine, namespace, "engines", 1))
    (pod,) = wait_for_pods(kube, namespace, 1, within=60)
    name: str = pod["metadata"]["name"]
    return name


def until_up(monitored: Prometheus, namespace: str) -> None:
    up = f'min(patio:engine_up{{namespace="{namespace}"}})'
    until(f"Prometheus sees the engine of {namespace} up", lambda: monitored.value(up) == 1, within=30)


def test_engine_that_is_killed_again_and_again(
    kube: Kube, double: Engine, monitored: Prometheus, make_namespace: Callable[[str], str], fires: Fires
) -> None:
    namespace = make_namespace("fault-killed")
    pod = one_engine(kube, double, namespace)
    until_up(monitored, namespace)
    labels = fires("PatioEngineDown", namespace, lambda: kill_in_pod(pod, "engine_double"))
    assert labels["pod"] == pod
    text = first_command(kube, "PatioEngineDown", namespace, pod)
    assert "Exit Code:    137" in text


def test_engine_that_is_stopped(
    kube: Kube, double: Engine, monitored: Prometheus, make_namespace: Callable[[str], str], fires: Fires
) -> None:
    """SIGSTOP of an engine of one process: it does not answer, and its container runs."""
    namespace = make_namespace("fault-stopped")
    pod = one_engine(kube, double, namespace)
    until_up(monitored, namespace)
    signal_in_pod(pod, "engine_double", signal.SIGSTOP)
    fires("PatioEngineDown", namespace)
    text = first_command(kube, "PatioEngineDown", namespace, pod)
    assert "Readiness probe failed" in text
    signal_in_pod(pod, "engine_double", signal.SIGCONT)


def test_engine_whose_scheduler_hangs(
    kube: Kube, double: Engine, monitored: Prometheus, make_namespace: Callable[[str], str], fires: Fires
) -> None:
    """It answers, and its requests get no token. A real vLLM is made to hang in `test_prometheus_beside_vllm`."""
    namespace = make_namespace("fault-stalled")
    pod = one_engine(kube, double, namespace)
    until_up(monitored, namespace)
    start_clients(kube, namespace)
    kube.to_pod("PUT", namespace, pod, 8000, "/_double/speed", {"tokens_per_second": 0.001}).raise_for_status()
    with asking(kube, namespace, pod):
        fires("PatioEngineStalled", namespace)
        text = first_command(kube, "PatioEngineStalled", namespace, pod)
    running = [line for line in text.splitlines() if line.startswith("patio:num_requests_running{")]
    assert [float(line.split()[-1]) for line in running] == [1.0]


@contextmanager
def asking(kube: Kube, namespace: str, pod: str) -> Iterator[None]:
    """One request to the engine of a pod, from another pod, for the length of a `with`."""
    address = kube.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")["status"]["podIP"]
    body = json.dumps({"model": BASE_MODEL, "prompt": PROMPT, "max_tokens": 50})
    script = (
        "import sys, urllib.request as u; "
        "u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), {'content-type': 'application/json'}))"
    )
    url = f"http://{address}:8000/v1/completions"
    execute = [*_kubectl(kube, namespace), "exec", "clients", "--"]
    process = subprocess.Popen([*execute, "python3", "-c", script, url, body], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_model_whose_pods_are_gone(
    kube: Kube, double: Engine, monitored: Prometheus, make_namespace: Callable[[str], str], fires: Fires
) -> None:
    namespace = make_namespace("fault-gone")
    one_engine(kube, double, namespace)
    until_up(monitored, namespace)
    running = f'count(patio:num_requests_running{{namespace="{namespace}"}} offset 45s)'
    until("the model was there 45 seconds ago", lambda: monitored.value(running) == 1, within=90)
    kube.kubectl("-n", namespace, "scale", "deployment/engines", "--replicas=0")
    labels = fires("PatioModelGone", namespace)
    assert labels["model_name"] == BASE_MODEL
    assert first_command(kube, "PatioModelGone", namespace).strip() == ""


def test_adapter_that_every_engine_refuses(
    kube: Kube, double: Engine, make_namespace: Callable[[str], str], fires: Fires
) -> None:
    namespace = make_namespace("fault-refused")
    one_engine(kube, double, namespace)
    everyone = {"matchLabels": {"app": "engines"}}
    kube.apply(lora_adapter(namespace, "refused", f"{ADAPTERS['lora-a']}-of-another-name", selector=everyone))
    labels = fires("PatioAdapterNowhere", namespace)
    assert labels["adapter"] == "refused"
    found = kube.lora_adapter(namespace, "refused") or {}
    text = first_command(kube, "PatioAdapterNowhere", namespace, ADAPTER="refused")
    ready = condition(found, "Ready")
    assert ready["status"] == "False"
    assert ready["reason"] in text
    assert f"{ADAPTERS['lora-a']}-of-another-name" in text


def test_router_that_loses_its_workers(
    kube: Kube, double: Engine, monitored: Prometheus, make_namespace: Callable[[str], str], fires: Fires
) -> None:
    namespace = make_namespace("fault-router")
    kube.apply(routed_group(double, namespace, "routed"))
    wait_for_pods(kube, namespace, 2, within=90)
    registered = f'min(patio:topology_registered{{namespace="{namespace}"}})'
    until("the router lists the engine", lambda: monitored.value(registered) == 1, within=60)
    signal_in_pod("routed-router-0", "smg.launch_router", signal.SIGSTOP)
    try:
        labels = fires("PatioNotRegistered", namespace)
        assert labels["pod"] == "routed-worker-0"
        text = first_command(kube, "PatioNotRegistered", namespace, "routed-worker-0")
    finally:
        signal_in_pod("routed-router-0", "smg.launch_router", signal.SIGCONT)
    assert "RouterUnreachable" in text


def test_operator_that_is_gone(kube: Kube, monitored: Prometheus, fires: Fires) -> None:
    until("the operator is seen", lambda: monitored.query("patio_operator_leader"), within=60)
    kube.kubectl("-n", SYSTEM_NAMESPACE, "scale", "deployment/patio-operator", "--replicas=0")
    try:
        fires("PatioOperatorAbsent", None)
        text = first_command(kube, "PatioOperatorAbsent")
    finally:
        kube.kubectl("-n", SYSTEM_NAMESPACE, "scale", "deployment/patio-operator", "--replicas=1")
        operator_is_back(kube, monitored)
    assert "pod/" not in text
    assert f"/{LEASE}" in text


def test_operator_that_cannot_have_its_lease(kube: Kube, monitored: Prometheus, fires: Fires) -> None:
    """Another holder renews it, which nobody is."""

    def hold() -> None:
        spec = {"holderIdentity": "a-replica-that-hangs", "leaseDurationSeconds": 600}
        kube.kubectl("-n", SYSTEM_NAMESPACE, "patch", "lease", LEASE, "--type=merge", "-p", json.dumps({"spec": spec}))

    hold()
    try:
        labels = fires("PatioOperatorLeaders", SYSTEM_NAMESPACE)
        text = first_command(kube, "PatioOperatorLeaders")
    finally:
        kube.kubectl("-n", SYSTEM_NAMESPACE, "delete", "lease", LEASE)
        operator_is_back(kube, monitored)
    assert labels["severity"] == "critical"
    assert "holderIdentity: a-replica-that-hangs" in text


def test_operator_that_may_not_read_what_it_injects(
    kube: Kube, double: Engine, monitored: Prometheus, make_namespace: Callable[[str], str], fires: Fires
) -> None:
    """Its rights are taken and it is restarted: it cannot read profiles, and answers each review with an error."""
    namespace = make_namespace("fault-rights")
    rights = kube.get(f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{RIGHTS}")
    of_profiles = ("clusterengineruntimeprofiles", "clusterengineruntimeprofiles/status")
    left = [rule for rule in rights["rules"] if not set(of_profiles) & set(rule.get("resources", ()))]
    assert len(left) < len(rights["rules"])
    kube.kubectl("patch", "clusterrole", RIGHTS, "--type=merge", "-p", json.dumps({"rules": left}))
    try:
        kube.kubectl("-n", SYSTEM_NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/component=operator")
        kube.apply(deployment(double, namespace, "engines", 1))

        def again() -> None:
            kube.kubectl("-n", namespace, "delete", "replicaset", "--all", "--wait=false")

        fires("PatioAdmissionsFail", SYSTEM_NAMESPACE, again)
        text = first_command(kube, "PatioAdmissionsFail")
    finally:
        kube.kubectl("patch", "clusterrole", RIGHTS, "--type=merge", "-p", json.dumps({"rules": rights["rules"]}))
        kube.kubectl("-n", SYSTEM_NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/component=operator")
        operator_is_back(kube, monitored)
    assert "forbidden" in text


def operator_is_back(kube: Kube, monitored: Prometheus) -> None:
    """Wait until the operator runs, leads and is scraped: what follows needs it."""
    labels = "app.kubernetes.io/component=operator"

    def pods() -> list[dict[str, Any]]:
        return [one for one in kube.pods(SYSTEM_NAMESPACE, labels) if "deletionTimestamp" not in one["metadata"]]

    until("the operator is ready", pods, lambda found: bool(found) and all(map(is_ready, found)), within=90)
    until("one replica leads", lambda: monitored.value("sum(patio_operator_leader)") == 1, within=60)


def test_every_critical_alert_has_its_fault_here() -> None:
    faults = set(re.findall(r"\bfires\(\s*\"(\w+)\"", Path(__file__).read_text()))
    assert faults == {alert.name for alert in ALERTS if alert.severity == "critical"}

"""Each critical alert, and that of the certificate, fires in a real fault; its runbook's first command shows the cause.

`alert_drill` says which rules: those of the chart with every duration twenty times shorter.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from patio_observability.alerts import ALERTS
from patio_testing.environment import (
    ADAPTERS,
    BASE_MODEL,
    PROMPT,
    ROUTER,
    SYSTEM_NAMESPACE,
    Engine,
    deployment,
    lora_adapter,
    routed_group,
    wait_for_pods,
)
from patio_testing.kube import Kube, condition, is_ready, until
from patio_testing.load_client import start_clients
from patio_testing.webhook_faults import certificate_end, end_certificate_in, secrets_read_only

from .alert_drill import Drill, kubectl
from .chaos import kill_in_pod, signal_in_pod

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("PATIO_TEST_LONG") != "1", reason="builds Prometheus: PATIO_TEST_LONG=1"),
]

LEASE = "patio-operator"
RIGHTS = "patio-operator"


def one_engine(kube: Kube, engine: Engine, namespace: str) -> str:
    """Make a Deployment of one engine and return its pod, once Prometheus could have seen its engine up."""
    kube.apply(deployment(engine, namespace, "engines", 1))
    (pod,) = wait_for_pods(kube, namespace, 1, within=60)
    name: str = pod["metadata"]["name"]
    return name


def test_engine_that_is_killed_again_and_again(
    kube: Kube, double: Engine, make_namespace: Callable[[str], str], drill: Drill
) -> None:
    namespace = make_namespace("fault-killed")
    pod = one_engine(kube, double, namespace)
    drill.until_up(namespace)
    labels = drill.fires("PatioEngineDown", namespace, lambda: kill_in_pod(pod, "engine_double"))
    assert labels["pod"] == pod
    text = drill.first_command("PatioEngineDown", namespace, pod)
    assert "Exit Code:    137" in text


def test_engine_that_is_stopped(kube: Kube, double: Engine, make_namespace: Callable[[str], str], drill: Drill) -> None:
    """SIGSTOP of an engine of one process: it does not answer, and its container runs."""
    namespace = make_namespace("fault-stopped")
    pod = one_engine(kube, double, namespace)
    drill.until_up(namespace)
    signal_in_pod(pod, "engine_double", signal.SIGSTOP)
    drill.fires("PatioEngineDown", namespace)
    text = drill.first_command("PatioEngineDown", namespace, pod)
    assert "Readiness probe failed" in text
    signal_in_pod(pod, "engine_double", signal.SIGCONT)


def test_engine_whose_scheduler_hangs(
    kube: Kube, double: Engine, make_namespace: Callable[[str], str], drill: Drill
) -> None:
    """It answers, and its requests get no token. A real vLLM is made to hang in `test_prometheus_beside_vllm`."""
    namespace = make_namespace("fault-stalled")
    pod = one_engine(kube, double, namespace)
    drill.until_up(namespace)
    start_clients(kube, namespace)
    kube.to_pod("PUT", namespace, pod, 8000, "/_double/speed", {"tokens_per_second": 0.001}).raise_for_status()
    with asking(kube, namespace, pod):
        drill.fires("PatioEngineStalled", namespace)
        text = drill.first_command("PatioEngineStalled", namespace, pod)
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
    execute = [*kubectl(kube, namespace), "exec", "clients", "--"]
    process = subprocess.Popen([*execute, "python3", "-c", script, url, body], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_model_whose_pods_are_gone(
    kube: Kube, double: Engine, make_namespace: Callable[[str], str], drill: Drill
) -> None:
    namespace = make_namespace("fault-gone")
    one_engine(kube, double, namespace)
    drill.until_up(namespace)
    running = f'count(patio:num_requests_running{{namespace="{namespace}"}} offset 45s)'
    until("the model was there 45 seconds ago", lambda: drill.prometheus.value(running) == 1, within=90)
    kube.kubectl("-n", namespace, "scale", "deployment/engines", "--replicas=0")
    labels = drill.fires("PatioModelGone", namespace)
    assert labels["model_name"] == BASE_MODEL
    assert drill.first_command("PatioModelGone", namespace).strip() == ""


def test_adapter_that_every_engine_refuses(
    kube: Kube, double: Engine, make_namespace: Callable[[str], str], drill: Drill
) -> None:
    namespace = make_namespace("fault-refused")
    one_engine(kube, double, namespace)
    everyone = {"matchLabels": {"app": "engines"}}
    kube.apply(lora_adapter(namespace, "refused", f"{ADAPTERS['lora-a']}-of-another-name", selector=everyone))
    labels = drill.fires("PatioAdapterNowhere", namespace)
    assert labels["adapter"] == "refused"
    found = kube.lora_adapter(namespace, "refused") or {}
    text = drill.first_command("PatioAdapterNowhere", namespace, ADAPTER="refused")
    ready = condition(found, "Ready")
    assert ready["status"] == "False"
    assert ready["reason"] in text
    assert f"{ADAPTERS['lora-a']}-of-another-name" in text


def test_router_that_loses_its_workers(
    kube: Kube, double: Engine, make_namespace: Callable[[str], str], drill: Drill
) -> None:
    namespace = make_namespace("fault-router")
    kube.apply(routed_group(double, namespace, "routed"))
    wait_for_pods(kube, namespace, 2, within=90)
    registered = f'min(patio:topology_registered{{namespace="{namespace}"}})'
    until("the router lists the engine", lambda: drill.prometheus.value(registered) == 1, within=60)
    signal_in_pod("routed-router-0", ROUTER, signal.SIGSTOP)
    try:
        labels = drill.fires("PatioNotRegistered", namespace)
        assert labels["pod"] == "routed-worker-0"
        text = drill.first_command("PatioNotRegistered", namespace, "routed-worker-0")
    finally:
        signal_in_pod("routed-router-0", ROUTER, signal.SIGCONT)
    assert "RouterUnreachable" in text


def test_operator_that_is_gone(kube: Kube, drill: Drill) -> None:
    until("the operator is seen", lambda: drill.prometheus.query("patio_operator_leader"), within=60)
    deployed = kube.get(f"/apis/apps/v1/namespaces/{SYSTEM_NAMESPACE}/deployments/patio-operator")
    kube.kubectl("-n", SYSTEM_NAMESPACE, "scale", "deployment/patio-operator", "--replicas=0")
    try:
        drill.fires("PatioOperatorAbsent", None)
        text = drill.first_command("PatioOperatorAbsent")
    finally:
        replicas = deployed["spec"]["replicas"]
        kube.kubectl("-n", SYSTEM_NAMESPACE, "scale", "deployment/patio-operator", f"--replicas={replicas}")
        operator_is_back(kube, drill)
    assert "pod/" not in text
    assert f"/{LEASE}" in text


def test_operator_that_cannot_have_its_lease(kube: Kube, drill: Drill) -> None:
    """Another holder renews it, which nobody is."""

    def hold() -> None:
        spec = {"holderIdentity": "a-replica-that-hangs", "leaseDurationSeconds": 600}
        kube.kubectl("-n", SYSTEM_NAMESPACE, "patch", "lease", LEASE, "--type=merge", "-p", json.dumps({"spec": spec}))

    hold()
    try:
        labels = drill.fires("PatioOperatorLeaders", SYSTEM_NAMESPACE)
        text = drill.first_command("PatioOperatorLeaders")
    finally:
        kube.kubectl("-n", SYSTEM_NAMESPACE, "delete", "lease", LEASE)
        operator_is_back(kube, drill)
    assert labels["severity"] == "critical"
    assert "holderIdentity: a-replica-that-hangs" in text


def test_operator_that_may_not_read_what_it_injects(
    kube: Kube, double: Engine, make_namespace: Callable[[str], str], drill: Drill
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

        drill.fires("PatioAdmissionsFail", SYSTEM_NAMESPACE, again)
        text = drill.first_command("PatioAdmissionsFail")
    finally:
        kube.kubectl("patch", "clusterrole", RIGHTS, "--type=merge", "-p", json.dumps({"rules": rights["rules"]}))
        kube.kubectl("-n", SYSTEM_NAMESPACE, "delete", "pod", "-l", "app.kubernetes.io/component=operator")
        operator_is_back(kube, drill)
    assert "forbidden" in text


def test_certificate_that_the_operator_may_not_renew(kube: Kube, drill: Drill) -> None:
    until("the operator is seen", lambda: drill.prometheus.query("patio_operator_leader"), within=60)
    with secrets_read_only(kube):
        end_certificate_in(kube, timedelta(days=5))
        labels = drill.fires("PatioWebhookCertificateExpires", SYSTEM_NAMESPACE, within=300)
        text = drill.first_command("PatioWebhookCertificateExpires")
    assert labels["certificate"] == "serving"
    assert "forbidden" in text
    in_a_month = datetime.now(UTC) + timedelta(days=30)
    until("it is renewed", lambda: certificate_end(kube) > in_a_month, within=60)


def operator_is_back(kube: Kube, drill: Drill) -> None:
    """Wait until the operator runs, leads and is scraped: what follows needs it."""
    labels = "app.kubernetes.io/component=operator"

    def pods() -> list[dict[str, Any]]:
        return [pod for pod in kube.pods(SYSTEM_NAMESPACE, labels) if "deletionTimestamp" not in pod["metadata"]]

    until("the operator is ready", pods, lambda found: bool(found) and all(map(is_ready, found)), within=90)
    until("one replica leads", lambda: drill.prometheus.value("sum(patio_operator_leader)") == 1, within=60)


def test_every_critical_alert_has_its_fault_here() -> None:
    faults = set(re.findall(r"drill\.fires\(\s*\"(\w+)\"", Path(__file__).read_text()))
    assert {alert.name for alert in ALERTS if alert.severity == "critical"} <= faults

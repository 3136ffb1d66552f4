"""A real vLLM on the cluster: Prometheus has its numbers, and notices when its scheduler hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from patio_observability.dashboards import DASHBOARDS
from patio_observability.queries import substituted, values_of
from patio_testing import environment
from patio_testing.environment import ADAPTERS, deployment, log_progress, lora_adapter, wait_for_adapter, wait_for_pods
from patio_testing.kube import Kube, until
from patio_testing.load_client import load, start_clients

from .alert_drill import Drill
from .chaos import signal_children_in_pod

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("PATIO_TEST_LONG") != "1", reason="builds Prometheus: PATIO_TEST_LONG=1"),
]

API_SERVER = "vllm"
MODELS = ("patio-fleet", "patio-engine")
"""Dashboards of what an engine measures."""


@pytest.fixture(scope="module")
def pod(kube: Kube, make_namespace: Callable[[str], str]) -> tuple[str, str]:
    """Namespace and name of a pod with vLLM, an adapter and a sidecar, beside one with clients."""
    namespace = make_namespace("observed-vllm")
    kube.apply(
        deployment(environment.vllm(log_progress), namespace, "engines", 1),
        lora_adapter(namespace, "expert", ADAPTERS["lora-a"], selector={"matchLabels": {"app": "engines"}}),
    )
    (found,) = wait_for_pods(kube, namespace, 1, within=300)
    wait_for_adapter(kube, namespace, "expert")
    start_clients(kube, namespace)
    name: str = found["metadata"]["name"]
    return namespace, name


def url(kube: Kube, namespace: str, pod: str) -> str:
    found = kube.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
    return f"http://{found['status']['podIP']}:8000"


def running(kube: Kube, namespace: str, pod: str) -> float:
    """Return how many requests the engine says that it runs."""
    text = kube.to_pod("GET", namespace, pod, 8000, "/metrics").raise_for_status().text
    (line,) = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
    return float(line.split()[-1])


def test_panels_of_engines_have_data_of_a_real_vllm(kube: Kube, pod: tuple[str, str], drill: Drill) -> None:
    namespace, name = pod
    queries = [
        substituted(query.expr, values_of(dashboard) | {"namespace": namespace})
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.queries
        if dashboard.uid in MODELS and "inference_engine=~" in query.expr
    ]
    assert len(queries) > 40
    silent: set[str] = set()
    with load(kube, namespace, url(kube, namespace, name), model="expert", tokens=(40, 80)) as answers:

        def those_without_data() -> set[str]:
            nonlocal silent
            silent = {expr for expr in queries if not drill.prometheus.query(expr)}
            return silent

        # Speculative decoding needs a draft model.
        until("all have data", those_without_data, lambda seen: all("spec_decode" in expr for expr in seen), within=60)
    log_progress(
        f"vLLM: {len(queries)} queries, {len(queries) - len(silent)} with data; load: {dict(answers.outcomes)}"
    )
    assert answers.served(url(kube, namespace, name)) > 0


def test_vllm_whose_scheduler_is_stopped_is_a_stalled_engine(kube: Kube, pod: tuple[str, str], drill: Drill) -> None:
    """SIGSTOP of what vLLM's API server has started: it goes on to answer, and no request gets a token."""
    namespace, name = pod
    drill.until_up(namespace)
    with load(kube, namespace, url(kube, namespace, name), model="expert", tokens=(300, 400)) as answers:
        # Read from the engine: it must have told of these requests before it hangs, or its gauge stays at zero.
        until("requests run", lambda: running(kube, namespace, name) > 1, within=60)
        signal_children_in_pod(name, API_SERVER, signal.SIGSTOP)
        try:
            labels = drill.fires("PatioEngineStalled", namespace)
            text = drill.first_command("PatioEngineStalled", namespace, name)
        finally:
            signal_children_in_pod(name, API_SERVER, signal.SIGCONT)
    assert labels["pod"] == name
    values = [line for line in text.splitlines() if line.startswith("patio:num_requests_running{")]
    assert [float(line.split()[-1]) >= 1 for line in values] == [True]
    assert answers.served(url(kube, namespace, name)) > 0, "requests go on when it does"

"""A real Prometheus finds the sidecars and the operator by what the chart makes, and answers every query of Patio.

Once by prometheus-operator, from the chart's monitors and rules, and once by the scrape configurations that the
documentation shows. The engines are both forms of the double, under load; on a real vLLM the same queries run in
`test_prometheus_beside_vllm`.
"""

from __future__ import annotations

import operator
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import yaml

import e2e_cluster
from e2e_engine.__main__ import model_directory
from patio_observability.alerts import ALERTS
from patio_observability.dashboards import DASHBOARDS
from patio_observability.queries import substituted, values_of
from patio_testing import environment
from patio_testing.environment import (
    ADAPTERS,
    ROOT,
    ROUTER,
    SYSTEM_NAMESPACE,
    deployment,
    double,
    double_sglang,
    log_progress,
    lora_adapter,
    routed_group,
    wait_for_adapter,
)
from patio_testing.kube import Kube, is_ready, until
from patio_testing.load_client import load, start_clients
from patio_testing.prometheus import MONITORS, Prometheus, start_plain
from patio_testing.sidecar.download_sources import ACCESS_KEY, SECRET_KEY, S3Server, s3_server

from .chaos import kill_in_pod

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("PATIO_TEST_LONG") != "1", reason="builds Prometheus: PATIO_TEST_LONG=1"),
]

ENGINES = "observed"
BUCKET = "adapters"
SECRET = {"ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY}
ANNOTATED = {"prometheus.io/scrape": "true", "prometheus.io/port": "9091", "prometheus.io/path": "/metrics"}
ONLY_WITH = {
    r"\bcontainer_": "cAdvisor",
    r"\bkube_": "kube-state-metrics",
    r"\bDCGM_": "the DCGM exporter and a GPU",
    r"patio:topology_leases\b": "a sidecar beside a router",
    r'by \(kind\) \(rate\(patio_operator_reconciles_total\{[^}]*outcome="error"': "a reconciler that fails",
    r"patio_operator_(retries_total|queue_retrying)\b": "a reconciler that fails",
    r'state="(Pending|Downloading)"|patio:download_expected_bytes\b': "an adapter that waits, or a download that lasts",
    r"patio:waiting_for\b.*> 0$": "a pod that is not ready",
    r"patio:drain_duration_seconds": "a pod that drains",
}
"""What is needed for queries with these words. All others have data here."""
FAULTS = 3
"""How often each fault is made: a counter that appears with its first event has a rate from its second on."""


@pytest.fixture(scope="module")
def namespace(
    kube: Kube,
    staged: environment.Environment,
    monitored: Prometheus,
    s3: S3Server,
    make_namespace: Callable[[str], str],
) -> str:
    """A namespace with both forms of the double, a router, and adapters in several states and from several sources."""
    name = make_namespace(ENGINES)
    environment.install_patio(kube, staged, log_progress, *MONITORS, f"adapters.secrets.namespaces={{{name}}}")
    as_vllm, as_sglang = double(tokens_per_second="40", max_num_seqs="2"), double_sglang(tokens_per_second="40")
    annotated = deployment(as_sglang, name, "sglang", 1)
    annotated["spec"]["template"]["metadata"]["annotations"] = ANNOTATED
    kube.apply(
        deployment(as_vllm, name, "vllm", 2),
        annotated,
        routed_group(as_vllm, name, "routed"),
        service(name),
        lora_adapter(name, "first", ADAPTERS["lora-a"], selector={"matchLabels": {"app": "vllm"}}),
        lora_adapter(name, "second", ADAPTERS["lora-b"], selector={"matchLabels": {"app": "sglang"}}),
        lora_adapter(name, "missing", "/models/adapters/nowhere", selector={"matchLabels": {"app": "vllm"}}),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3", "namespace": name}, "stringData": SECRET},
        from_bucket(name, s3, "fetched", "lora-a"),
        from_bucket(name, s3, "absent", "nowhere"),
    )
    until(
        "five ready pods",
        lambda: kube.pods(name),
        lambda pods: len(pods) == 5 and all(is_ready(pod) for pod in pods),
        within=120,
    )
    for adapter in ("first", "second", "fetched"):
        wait_for_adapter(kube, name, adapter)
    start_clients(kube, name)
    return name


def from_bucket(namespace: str, s3: S3Server, name: str, folder: str) -> dict[str, Any]:
    """Return an adapter for the engines in vLLM's form that comes from a folder of the bucket."""
    source = {"uri": f"s3://{BUCKET}/{folder}", "endpoint": s3.url, "secretRef": {"name": "s3"}, "allowPlainHTTP": True}
    return lora_adapter(namespace, name, "", selector={"matchLabels": {"app": "vllm"}}, source=source)


def service(namespace: str) -> dict[str, Any]:
    """Return a Service of all pods with a sidecar."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "engines", "namespace": namespace},
        "spec": {"selector": {"patio.dev/injected": "true"}, "ports": [{"port": 8000}]},
    }


@pytest.fixture(scope="module")
def s3(kube: Kube) -> Iterator[S3Server]:
    """An S3 server that the pods can reach, with one adapter."""
    folder = model_directory() / "adapters" / "lora-a"
    with s3_server(e2e_cluster.connect(report=log_progress).machine_address) as server:
        server.put(BUCKET, {f"lora-a/{file.name}": file.read_bytes() for file in folder.iterdir()})
        yield server


@pytest.fixture(scope="module")
def faults(kube: Kube, namespace: str, monitored: Prometheus) -> None:
    """What some counters need: an engine that dies, a router that dies, and calls that the sidecar rejects."""
    errors = 'sum(patio:engine_scrape_errors_total{pod="routed-worker-0"})'
    for count in range(FAULTS):
        kill_in_pod("routed-router-0", ROUTER)
        answer = kube.to_pod("POST", namespace, "routed-worker-0", 9091, "/v1/drain", {"timeout": 1})
        assert answer.status_code in (401, 403)
        kill_in_pod("routed-worker-0", "engine_double")
        more: Callable[[float], bool] = partial(operator.lt, float(count))
        until("the scrapes that failed are counted", lambda: monitored.value(errors), more, within=60)


@pytest.fixture(scope="module")
def busy(kube: Kube, namespace: str, faults: None) -> Iterator[None]:
    """Load on all engines, with more requests than run at a time, as long as tests of queries run."""
    with load(kube, namespace, "http://engines:8000", tokens=(20, 80), clients=12) as answers:
        yield
    log_progress(f"load: {answers.outcomes}")
    assert answers.served("http://engines:8000") > 20


def sidecars(kube: Kube, namespace: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in kube.pods(namespace, "patio.dev/injected=true")}


def operators(kube: Kube) -> set[str]:
    labels = "app.kubernetes.io/component=operator"
    return {pod["metadata"]["name"] for pod in kube.pods(SYSTEM_NAMESPACE, labels) if is_ready(pod)}


def test_operator_finds_all_by_the_monitors_of_the_chart(kube: Kube, namespace: str, monitored: Prometheus) -> None:
    assert len(sidecars(kube, namespace)) == 4
    until(
        "Prometheus scrapes all sidecars",
        lambda: (monitored.healthy("patio-sidecar"), sidecars(kube, namespace)),
        lambda seen: seen[1] <= seen[0],
        within=60,
    )
    until(
        "Prometheus scrapes the operator",
        lambda: (monitored.healthy("patio-operator"), operators(kube)),
        lambda seen: seen[0] == seen[1] != set(),
        within=60,
    )
    roles = monitored.query('count by (rbg_workloads_x_k8s_io_role_name) (patio:engine_up{pod="routed-worker-0"})')
    assert [series["metric"] for series in roles] == [{"rbg_workloads_x_k8s_io_role_name": "worker"}]


def test_rules_of_the_chart_are_evaluated(monitored: Prometheus) -> None:
    expected = {alert.name: "ok" for alert in ALERTS}
    until("all alerts are evaluated", monitored.rules, lambda rules: expected.items() <= rules.items(), within=60)


def test_configurations_of_the_documentation_find_the_same_pods(
    kube: Kube, namespace: str, monitored: Prometheus
) -> None:
    blocks = re.findall(r"```yaml\n(scrape_configs:.*?)```", (ROOT / "docs/tasks/scrape.md").read_text(), re.DOTALL)
    jobs = [job for block in blocks for job in yaml.safe_load(block)["scrape_configs"]]
    assert [job["job_name"] for job in jobs] == ["patio-sidecar", "patio-operator", "annotated-pods"]
    plain = start_plain(kube, jobs)
    annotated = {pod for pod in sidecars(kube, namespace) if pod.startswith("sglang-")}
    for job, pods in (
        ("patio-sidecar", sidecars(kube, namespace)),
        ("patio-operator", operators(kube)),
        ("annotated-pods", annotated),
    ):
        assert pods
        scraped: Callable[[], set[str]] = partial(plain.healthy, job)
        until(f"the job {job} scrapes {sorted(pods)}", scraped, pods.issubset, within=60)
    rules = until("all alerts are evaluated", plain.rules, lambda rules: set(rules.values()) == {"ok"}, within=60)
    assert set(rules) == {alert.name for alert in ALERTS}


def test_every_query_of_a_panel_has_data(busy: None, monitored: Prometheus) -> None:
    panels = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
    queries = [
        (f"{dashboard.uid}: {panel.title}", substituted(query.expr, values_of(dashboard)))
        for dashboard, panel in panels
        for query in panel.queries
    ]

    def silent() -> dict[str, str]:
        """Return the queries without an answer, apart from those that need what is not here."""
        return {expr: title for title, expr in queries if not needs(expr) and not monitored.query(expr)}

    until("every query has data", silent, lambda found: not found, within=60)
    with_data = sum(bool(monitored.query(expr)) for _, expr in queries)
    excused = Counter(filter(None, (needs(expr) for _, expr in queries)))
    log_progress(f"{len(panels)} panels, {len(queries)} queries run, {with_data} with data")
    log_progress("only with " + "; ".join(f"{what}: {count} queries" for what, count in excused.items()))
    assert excused.keys() == set(ONLY_WITH.values())
    assert with_data >= len(queries) - excused.total()


def test_every_metric_of_an_alert_has_series(busy: None, monitored: Prometheus) -> None:
    """An alert has no answer while all is well: what it looks at must be there, or it would be silent for ever."""
    names = {name for alert in ALERTS for name in re.findall(r"\bpatio(?::|_operator_)\w+", alert.expr)}
    until(
        "every metric of the alerts has series",
        lambda: [name for name in sorted(names) if not monitored.query(name)],
        lambda lacking: not lacking,
        within=30,
    )
    for alert in ALERTS:
        monitored.query(re.sub(r"\$\{\w+\}", "1", alert.expr))
    log_progress(f"{len(ALERTS)} alerts run, {len(names)} metrics that they look at, all with series")


def needs(expr: str) -> str:
    """Return what an expression needs that is not on this cluster; nothing if all is here."""
    return next((what for words, what in ONLY_WITH.items() if re.search(words, expr)), "")

"""The operator's metrics on a port of their own, with a real API server that says who may read them."""

from __future__ import annotations

import base64
import ssl
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e_cluster.control_plane import ControlPlane, control_plane
from e2e_cluster.unpacked import PROMTOOL, ensure_unpacked
from inference_server.ports import free_port
from patio_testing.chart import install_chart
from patio_testing.kube import Kube, connected, until
from patio_testing.operator_process import OPERATOR, OperatorProcess

from .converter import converting
from .test_operator_replicas import rbg

pytestmark = pytest.mark.api

SERVED_AS = "patio-webhook.patio-system.svc"
READER = "operator.metrics.readers[0]"
DAY = 86400

Samples = dict[str, dict[tuple[str, ...], float]]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server with the chart, whose operator serves its metrics to one service account of `monitoring`."""
    with control_plane() as running:
        values = ("operator.metrics.secure=true", f"{READER}.namespace=monitoring", f"{READER}.name=prometheus")
        install_chart(running, *values)
        running.kubectl("create", "namespace", "monitoring")
        for name in ("prometheus", "stranger"):
            running.kubectl("create", "serviceaccount", name, "--namespace", "monitoring")
        with converting(running):
            yield running


@pytest.fixture(scope="module")
def kube(plane: ControlPlane) -> Iterator[Kube]:
    """The API server, as its users see it."""
    with connected(plane.binaries.kubectl, plane.kubeconfig) as connection:
        yield connection


class Scraper:
    """Reads the metrics as Prometheus does: with the CA of the Secret, and the name of the certificate."""

    def __init__(self, kube: Kube, port: int, process: OperatorProcess) -> None:
        self._kube = kube
        self._port = port
        self.process = process

    def token(self, name: str) -> str:
        """Return a token of a service account, as the kubelet mounts it."""
        return self._kube.kubectl("create", "token", name, "--namespace", "monitoring").strip()

    def get(self, token: str | None) -> httpx.Response:
        """Ask for the metrics."""
        secret = self._kube.get("/api/v1/namespaces/patio-system/secrets/patio-webhook-tls")
        context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with httpx.Client(verify=context) as client:
            url = f"https://127.0.0.1:{self._port}/metrics"
            return client.get(url, headers=headers, extensions={"sni_hostname": SERVED_AS})

    def samples(self, token: str) -> Samples:
        """Return all samples, by name and by the values of their labels."""
        found: Samples = {}
        for family in text_string_to_metric_families(self.get(token).raise_for_status().text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
        return found


@pytest.fixture(scope="module")
def scraper(plane: ControlPlane, kube: Kube) -> Iterator[Scraper]:
    """A running operator whose metrics have a port of their own."""
    port = free_port()
    process = OperatorProcess(plane.kubeconfig_for(OPERATOR), PATIO_METRICS_PORT=str(port))
    process.start()
    yield Scraper(kube, port, process)
    process.stop()
    print(process.logged())  # pytest shows it with a failure
    assert "forbidden" not in process.logged()


def test_only_whom_the_api_server_lets_reads_the_metrics(scraper: Scraper) -> None:
    prometheus, stranger = scraper.token("prometheus"), scraper.token("stranger")
    admitted = scraper.get(prometheus)
    assert admitted.status_code == 200
    assert admitted.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "patio_operator_leader" in admitted.text
    denied = scraper.get(stranger)
    assert (denied.status_code, "system:serviceaccount:monitoring:stranger" in denied.text) == (403, True)
    for nobody in (None, "no-token", prometheus[:-4]):
        answer = scraper.get(nobody)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "patio_operator" not in answer.text
    for token in (prometheus, stranger):
        assert token not in scraper.process.logged()


def test_right_can_be_given_to_others(kube: Kube, scraper: Scraper) -> None:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "another-scraper"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "patio-metrics-reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "stranger", "namespace": "monitoring"}],
    }
    kube.apply(binding)
    token = scraper.token("stranger")
    until("it may read", lambda: scraper.get(token).status_code == 200)


def test_metrics_are_not_on_the_port_of_the_probes(scraper: Scraper) -> None:
    assert scraper.process.ready()
    assert scraper.process.metrics() == "404: Not Found"


def test_real_api_servers_objects_and_answers_are_counted(kube: Kube, namespace: str, scraper: Scraper) -> None:
    token = scraper.token("prometheus")
    until("it leads", lambda: scraper.samples(token)["patio_operator_leader"][()] == 1)
    kube.apply(rbg(namespace, "g"))
    kube.apply(
        {
            "apiVersion": "patio.dev/v1alpha1",
            "kind": "LoraAdapter",
            "metadata": {"name": "sql", "namespace": namespace},
            "spec": {"source": {"uri": "file:///a"}, "selector": {"matchLabels": {"app": "none"}}},
        }
    )

    def shown() -> Samples:
        return scraper.samples(token)

    def reason(name: str, *place: str) -> str:
        return next((labels[-1] for labels in shown().get(name, {}) if labels[:-1] == place), "")

    until(
        "the group",
        lambda: reason("patio_operator_rolebasedgroup_ready", namespace, "g"),
        lambda current: current == "RoleNotReady",
    )
    until(
        "the adapter",
        lambda: reason("patio_operator_loraadapter_ready", namespace, "sql"),
        lambda current: current == "NoMatchingPods",
    )
    until(
        "the profile",
        lambda: reason("patio_operator_profile_rolled_out", "patio"),
        lambda current: current == "UpToDate",
    )
    page = shown()
    assert page["patio_operator_rolebasedgroup_roles"][namespace, "g"] == 1
    assert page["patio_operator_loraadapters"]["False", "NoMatchingPods"] == 1
    assert set(page["patio_operator_objects_without_series"].values()) == {0}
    assert set(page["patio_operator_watch_synced"].values()) == {1}
    assert {("pods",), ("loraadapters",), ("rolebasedgroups",)} <= page["patio_operator_watch_synced"].keys()
    answered = [labels for labels, count in page["patio_operator_api_requests_total"].items() if count]
    requests = {verb for code, verb in answered if code.startswith("2")}
    assert {"get", "list", "watch", "create", "patch", "apply"} <= requests
    ends = page["patio_operator_certificate_expiry_timestamp_seconds"]
    assert 364 * DAY < ends["serving",] - time.time() < 366 * DAY < ends["ca",] - time.time()
    assert 0 <= time.time() - page["patio_operator_signing_key_created_timestamp_seconds"][()] < DAY
    assert page["patio_operator_lease_transitions_total"][()] == 0
    assert page["patio_operator_event_loop_lag_seconds_count"][()] > 0
    assert page["process_open_fds"][()] > 0
    kube.kubectl("delete", "-n", namespace, "rolebasedgroups/g", "loraadapters/sql")
    until(
        "both are gone",
        lambda: (
            reason("patio_operator_rolebasedgroup_ready", namespace, "g"),
            reason("patio_operator_loraadapter_ready", namespace, "sql"),
        ),
        lambda current: current == ("", ""),
    )


def test_page_is_what_promtool_accepts(scraper: Scraper) -> None:
    text = scraper.get(scraper.token("prometheus")).text
    done = subprocess.run(
        [ensure_unpacked(PROMTOOL), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

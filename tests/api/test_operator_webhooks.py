"""Admission by the real API server through the chart's own configuration, while certificates and replicas change."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from e2e_cluster.control_plane import ControlPlane, control_plane
from patio_testing.chart import install_chart
from patio_testing.deadline import DEADLINE
from patio_testing.kube import Kube, KubectlError, connected, until
from patio_testing.operator_process import OPERATOR, OperatorProcess
from patio_testing.webhook_faults import end_certificate_in, secrets_read_only
from patio_testing.webhook_service import webhook_service

pytestmark = pytest.mark.api

CHART = Path(__file__).resolve().parents[2] / "charts" / "patio"
SERVED_AS = "patio-webhook.patio-system.svc"
CREATIONS = 200
AT_ONCE = 40
WHILE_ROTATING = 8
"""At once, every half second, while certificates are replaced."""
A_SECOND = {"PATIO_CERTIFICATE_HOURS": str(30 / 3600), "PATIO_CERTIFICATE_RENEW_HOURS": str(1 / 3600)}

Replicas = Callable[..., list[OperatorProcess]]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server for these tests alone: what they do to certificates is nobody else's business."""
    with control_plane() as running:
        install_chart(running)
        yield running


@pytest.fixture(scope="module")
def kube(plane: ControlPlane) -> Iterator[Kube]:
    """That API server, as its users see it."""
    with connected(plane.binaries.kubectl, plane.kubeconfig) as connection:
        yield connection


@pytest.fixture
def replicas(plane: ControlPlane, kube: Kube) -> Iterator[Replicas]:
    """Starts two replicas behind the webhook's Service, with variables of the test's own."""
    with ExitStack() as stack:
        processes: list[OperatorProcess] = []

        def start(**variables: str) -> list[OperatorProcess]:
            for letter in "ab":
                process = OperatorProcess(plane.kubeconfig_for(OPERATOR), f"patio-operator-{letter}", **variables)
                processes.append(process)
                stack.callback(process.end)
                process.start()
            stack.enter_context(webhook_service(kube, lambda: [replica.webhook_port for replica in processes]))
            until("the API server trusts them", lambda: ca_bundle(kube))
            return processes

        yield start
        for replica in processes:
            print(f"--- {replica.name}\n{replica.logged()}")  # pytest shows it with a failure
            assert "forbidden" not in replica.logged()


def ca_bundle(kube: Kube) -> bytes:
    """What the API server is told to trust; empty while its webhooks differ."""
    body = kube.get("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/patio")
    bundles = {webhook["clientConfig"].get("caBundle") or "" for webhook in body["webhooks"]}
    return base64.b64decode(bundles.pop()) if len(bundles) == 1 else b""


def served(port: int, trusted: bytes) -> str:
    """Shake hands with a replica as the API server does; return the serial number of its certificate."""
    context = ssl.create_default_context(cadata=trusted.decode())
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname=SERVED_AS) as secure,
    ):
        certificate = secure.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def failed_admissions(operator: OperatorProcess) -> float:
    """How many reviews of pods ended with an error."""
    lines = [line for line in operator.metrics().splitlines() if line.startswith("patio_operator_admissions_total{")]
    errors = [line for line in lines if 'outcome="error"' in line and 'webhook="pods"' in line]
    assert errors
    return sum(float(line.rsplit(" ", 1)[1]) for line in errors)


def engine_pod(namespace: str, name: str) -> dict[str, Any]:
    engine = {"name": "vllm", "image": "vllm", "command": ["vllm", "serve", "m", "--enable-lora"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"patio.dev/profile": "patio"}},
        "spec": {"containers": [engine]},
    }


def created_dry(kube: Kube, pod: dict[str, Any]) -> dict[str, Any]:
    """Have the API server admit a pod without keeping it."""
    response = kube.http.post(f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods?dryRun=All", json=pod)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


def test_admission_never_fails_while_certificates_and_cas_rotate(
    kube: Kube, namespace: str, replicas: Replicas
) -> None:
    processes = replicas(**A_SECOND)
    serials: set[str] = set()
    bundles: set[bytes] = set()
    slowest = 0.0
    started = time.monotonic()
    with ThreadPoolExecutor(WHILE_ROTATING) as pool:
        for number in range(CREATIONS // WHILE_ROTATING):
            if number % 8 == 4:  # and a new CA every few seconds
                kube.kubectl("-n", "patio-system", "annotate", "secret", "patio-webhook-tls", "patio.dev/rotate=now")
            began = time.monotonic()
            pods = [engine_pod(namespace, f"engine-{number}-{index}") for index in range(WHILE_ROTATING)]
            for admitted in pool.map(lambda pod: created_dry(kube, pod), pods):
                assert [container["name"] for container in admitted["spec"]["initContainers"]] == ["patio"]
            slowest = max(slowest, time.monotonic() - began)
            trusted = until("one CA bundle", lambda: ca_bundle(kube), within=5)
            serials |= {served(replica.webhook_port, trusted) for replica in processes}
            bundles.add(trusted)
            until("half a second has passed", lambda n=number: time.monotonic() - started > n / 2)
    print(
        f"{CREATIONS} creations in {time.monotonic() - started:.0f} s, none failed; {len(serials)} certificates, "
        f"{len(bundles)} CA bundles; {WHILE_ROTATING} at once took at most {slowest * 1000:.0f} ms"
    )
    assert len(serials) >= 6
    assert len(bundles) >= 3
    assert [failed_admissions(replica) for replica in processes] == [0, 0]


def test_deleted_secret_comes_back_and_trusts_what_it_trusted(kube: Kube, namespace: str, replicas: Replicas) -> None:
    processes = replicas()
    before = authorities(ca_bundle(kube))
    kube.kubectl("-n", "patio-system", "delete", "secret", "patio-webhook-tls")
    path = "/api/v1/namespaces/patio-system/secrets/patio-webhook-tls"
    until("the Secret is back", lambda: kube.get(path), within=20)
    trusted = ca_bundle(kube)
    assert authorities(trusted) >= before
    assert {served(replica.webhook_port, trusted) for replica in processes}
    created_dry(kube, engine_pod(namespace, "engine"))


def test_operator_that_may_not_write_its_secrets_serves_them(plane: ControlPlane, kube: Kube, namespace: str) -> None:
    """Both Secrets are due, and it starts: a right that was taken away must not cost pods their sidecar."""
    process = OperatorProcess(plane.kubeconfig_for(OPERATOR))
    with ExitStack() as stack:
        stack.callback(process.end)
        # Other tests leave a CA that ends in minutes.
        kube.kubectl("-n", "patio-system", "delete", "secret", "patio-webhook-tls", "--ignore-not-found")
        process.start()
        stack.enter_context(webhook_service(kube, lambda: [process.webhook_port]))
        until("the API server trusts it", lambda: ca_bundle(kube))
        process.terminate()
        assert process.ended() == 0
        with secrets_read_only(kube):
            end_certificate_in(kube, timedelta(days=5))
            kube.kubectl("-n", "patio-system", "annotate", "secret", "patio-signing-key", "patio.dev/rotate=now")
            process.start()
            created_dry(kube, engine_pod(namespace, "engine"))
            assert timedelta(days=4) < served_until(process) - datetime.now(UTC) < timedelta(days=5)
            for subject in ("webhook certificate", "signing key"):
                assert re.search(rf"{subject}: .*forbidden", process.logged()), subject
        until(
            "the certificate is renewed once it may be",
            lambda: served_until(process) - datetime.now(UTC),
            lambda rest: rest > timedelta(days=300),
        )
        created_dry(kube, engine_pod(namespace, "engine"))
        print(process.logged())  # pytest shows it with a failure


def served_until(operator: OperatorProcess) -> datetime:
    """When the certificate that an operator serves ends, as its metrics say."""
    name = 'patio_operator_certificate_expiry_timestamp_seconds{certificate="serving"}'
    (line,) = [line for line in operator.metrics().splitlines() if line.startswith(name)]
    return datetime.fromtimestamp(float(line.rsplit(" ", 1)[1]), UTC)


def authorities(bundle: bytes) -> set[bytes]:
    return {certificate.fingerprint(hashes.SHA256()) for certificate in x509.load_pem_x509_certificates(bundle)}


def test_ending_replica_answers_until_no_request_is_routed_to_it(
    kube: Kube, namespace: str, replicas: Replicas
) -> None:
    leaving, _ = replicas(PATIO_LINGER_SECONDS="3")
    trusted = ca_bundle(kube)
    leaving.terminate()
    until("it is not ready", lambda: not leaving.ready())
    assert served(leaving.webhook_port, trusted)
    for number in range(20):
        created_dry(kube, engine_pod(namespace, f"engine-{number}"))
    assert leaving.ended() == 0
    for number in range(20):
        created_dry(kube, engine_pod(namespace, f"late-{number}"))


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_pods_created_while_a_replica_ends_are_all_injected(
    kube: Kube, namespace: str, replicas: Replicas, end: str
) -> None:
    processes = replicas(PATIO_LINGER_SECONDS="3")
    (leader,) = until("one leads", lambda: [replica for replica in processes if replica.leads()])
    started = threading.Semaphore(0)
    refused: list[str] = []

    def create(number: int) -> dict[str, Any]:
        pod = engine_pod(namespace, f"engine-{number}")
        started.release()
        for _ in range(3):  # controllers try again
            response = kube.http.post(f"/api/v1/namespaces/{namespace}/pods", json=pod)
            if response.status_code == 201:
                return dict(response.json())
            refused.append(response.text)
        raise AssertionError(refused[-1])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        creations = [pool.submit(create, number) for number in range(CREATIONS)]
        for _ in range(CREATIONS // 2):
            assert started.acquire(timeout=DEADLINE)
        (leader.terminate if end == "SIGTERM" else leader.kill)()
        pods = [creation.result() for creation in creations]
    assert all([container["name"] for container in pod["spec"]["initContainers"]] == ["patio"] for pod in pods)
    print(f"{len(pods)} pods, {AT_ONCE} at a time, all injected; {len(refused)} tried again after {end}")
    if end == "SIGTERM":
        assert not refused
        assert leader.ended() == 0
    else:
        assert len(refused) <= AT_ONCE, "no more than were in progress"


def test_webhook_outage_blocks_only_pods_that_ask_for_injection(kube: Kube, namespace: str) -> None:
    with webhook_service(kube, lambda: []):
        pod = engine_pod(namespace, "plain")
        del pod["metadata"]["labels"]
        created_dry(kube, pod)
        of_a_group = engine_pod(namespace, "of-a-group")
        of_a_group["metadata"]["labels"] = {"rbg.workloads.x-k8s.io/group-name": "g"}
        created_dry(kube, of_a_group)
        with pytest.raises(KubectlError, match="failed calling webhook"):
            kube.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(engine_pod(namespace, "engine")))

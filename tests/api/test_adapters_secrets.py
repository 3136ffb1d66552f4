"""Credentials of LoraAdapters, on a real API server: read where that is granted, sent in orders, seen nowhere."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from e2e_cluster.control_plane import ControlPlane
from engine_double.samples import write_adapter
from patio_operator.security.signing_keys import decode
from patio_operator.security.token_rules import objection, review_of
from patio_protocol.adapters import AdapterList
from patio_protocol.credentials import (
    HANDSHAKE_PATH,
    TOKEN_AUDIENCE,
    HandshakeAnswer,
    HandshakeRequest,
    TokenText,
)
from patio_protocol.sealed_boxes import BoxKey, box, new_key
from patio_testing.engine_pods import EnginePod, MakePod, lora_adapter, token, until_ready
from patio_testing.kube import Kube, condition, until
from patio_testing.operator_process import OPERATOR, OperatorProcess
from patio_testing.sidecar.download_sources import Hub, running_hub

pytestmark = pytest.mark.api

TOKEN = "hf_a-token-that-nobody-may-see"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A Hub with one private repository."""
    folder = write_adapter(tmp_path / "published")
    with running_hub({path.name: path.read_bytes() for path in folder.iterdir()}, token=TOKEN) as running:
        yield running


@pytest.fixture
def reader(plane: ControlPlane, kube: Kube, namespace: str) -> Iterator[OperatorProcess]:
    """An operator that may read the Secrets of the test's namespace, as the chart's value would have it."""
    metadata = {"name": "patio-operator-secrets", "namespace": namespace}
    rbac = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}]
    kube.apply(
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "patio-operator-secrets"},
            "subjects": [{"kind": "ServiceAccount", "name": "patio-operator", "namespace": "patio-system"}],
        },
    )
    process = OperatorProcess(
        plane.kubeconfig_for(OPERATOR), PATIO_SECRET_NAMESPACES=namespace, PATIO_LOG_LEVEL="DEBUG"
    )
    process.start()
    yield process
    process.stop()
    print(process.logged())


@pytest.fixture
def reviewer(kube: Kube, reader: OperatorProcess) -> Iterator[OperatorProcess]:
    """The same, which may have tokens reviewed as well: what the chart's value gives it."""
    metadata = {"name": "patio-operator-token-reviews"}
    rbac = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]
    kube.apply(
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "patio-operator-token-reviews"},
            "subjects": [{"kind": "ServiceAccount", "name": "patio-operator", "namespace": "patio-system"}],
        },
    )
    yield reader
    kube.kubectl("delete", "clusterrole,clusterrolebinding", "patio-operator-token-reviews")
    assert "forbidden" not in reader.logged()


def secret(namespace: str, **data: str) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hub", "namespace": namespace},
        "data": encoded,
    }


def private(namespace: str, hub: Hub) -> dict[str, Any]:
    source = {"uri": "hf://team/adapter", "endpoint": hub.url, "secretRef": {"name": "hub"}}
    return lora_adapter(namespace, "sql", "", source=source)


def operator_key(kube: Kube) -> str:
    """Return the public key that injection would give to a pod."""
    key = decode(kube.get("/api/v1/namespaces/patio-system/secrets/patio-signing-key")["data"])
    assert key is not None
    return key.public


def until_reason(kube: Kube, namespace: str, reason: str) -> dict[str, Any]:
    return until(
        reason,
        lambda: kube.lora_adapter(namespace, "sql") or {},
        lambda adapter: condition(adapter, "Ready").get("reason") == reason,
        within=30,
    )


def test_secret_reaches_the_sidecar_and_nothing_else(
    kube: Kube, namespace: str, engine_pod: MakePod, hub: Hub, reviewer: OperatorProcess, tmp_path: Path
) -> None:
    pod = engine_pod("a")
    pod.identify(operator_key(kube))
    kube.apply(private(namespace, hub))
    until_reason(kube, namespace, "SecretNotFound")
    kube.apply(secret(namespace, UNRELATED="x"))
    adapter = until_reason(kube, namespace, "SecretIncomplete")
    assert "HF_AUTH_TOKEN" in condition(adapter, "Ready")["message"]
    kube.apply(secret(namespace, HF_AUTH_TOKEN="hf_wrong-and-secret-too"))
    until("the Hub refused it", lambda: "Unauthorized" in _text(kube, namespace) or "401" in _text(kube, namespace))
    kube.apply(secret(namespace, HF_AUTH_TOKEN=TOKEN))
    until_ready(kube, namespace, "sql", 1, within=60)
    assert "sql" in pod.models()
    pod.kill("engine", "sidecar")
    pod.start_engine()
    pod.start_sidecar()
    until("it is back", lambda: "sql" in pod.models(), within=30)
    stored = "".join(path.read_text(errors="replace") for path in (tmp_path / "a").rglob("*") if path.is_file())
    texts = _text(kube, namespace) + reviewer.logged() + pod.logged() + stored
    for value in (TOKEN, "hf_wrong-and-secret-too"):
        assert value not in texts
        assert base64.b64encode(value.encode()).decode() not in texts


@pytest.mark.usefixtures("operator")
def test_status_names_the_remedy_if_secrets_may_not_be_read(
    kube: Kube, namespace: str, engine_pod: MakePod, hub: Hub
) -> None:
    engine_pod("a")
    kube.apply(secret(namespace, HF_AUTH_TOKEN=TOKEN), private(namespace, hub))
    adapter = until_reason(kube, namespace, "SecretForbidden")
    assert "adapters.secrets.namespaces" in condition(adapter, "Ready")["message"]


@pytest.mark.usefixtures("reviewer")
def test_pod_without_a_token_gets_credentials_once_it_has_one(
    kube: Kube, namespace: str, engine_pod: MakePod, hub: Hub
) -> None:
    pod = engine_pod("a")
    kube.apply(secret(namespace, HF_AUTH_TOKEN=TOKEN), private(namespace, hub))
    adapter = until_reason(kube, namespace, "SidecarUnproven")
    assert "no key of the operator" in condition(adapter, "Ready")["message"]
    other = engine_pod("b")
    pod.identify(operator_key(kube), shown=other.token())
    other.stop()
    kube.kubectl("-n", namespace, "label", "pod", "b", "app-", "patio.dev/injected-")
    until("it is told", lambda: "another pod. Recreate the pod" in _text(kube, namespace))
    pod.identify(operator_key(kube))
    until_ready(kube, namespace, "sql", 1, within=60)


def test_missing_right_to_review_tokens_is_reported_with_remedy(
    kube: Kube, namespace: str, engine_pod: MakePod, hub: Hub, reader: OperatorProcess
) -> None:
    pod = engine_pod("a")
    pod.identify(operator_key(kube))
    kube.apply(secret(namespace, HF_AUTH_TOKEN=TOKEN), private(namespace, hub))
    adapter = until_reason(kube, namespace, "TokenReviewForbidden")
    assert "tokenreviews" in condition(adapter, "Ready")["message"]
    assert TOKEN not in reader.logged()


def test_new_holder_of_an_address_gets_no_credential(
    kube: Kube, namespace: str, engine_pod: MakePod, hub: Hub, reviewer: OperatorProcess
) -> None:
    pod, other = engine_pod("a"), engine_pod("b")
    kube.kubectl("-n", namespace, "label", "pod", "b", "app-")
    pod.kill("sidecar")
    with stranger(pod, other.token()) as received:
        kube.apply(secret(namespace, HF_AUTH_TOKEN=TOKEN), private(namespace, hub))
        until_reason(kube, namespace, "SidecarUnproven")
        until("it was tried again", lambda: sum(HANDSHAKE_PATH in request for request in received) > 2)
    texts = "".join(received)
    assert "load_lora_adapter" not in texts
    for value in (TOKEN, base64.b64encode(TOKEN.encode()).decode()):
        assert value not in texts + reviewer.logged() + _text(kube, namespace)


def test_only_a_token_of_the_pod_and_the_audience_is_a_proof(kube: Kube, namespace: str, engine_pod: MakePod) -> None:
    def judged(shown: str, uid: str, in_namespace: str = namespace) -> str:
        answer = kube.http.post("/apis/authentication.k8s.io/v1/tokenreviews", json=review_of(shown))
        answer.raise_for_status()
        return objection(answer.json(), in_namespace, uid) or ""

    pod, other = engine_pod("a"), engine_pod("b")
    good, uid = pod.token(), pod.uid
    assert judged(good, uid) == ""
    assert "another pod" in judged(other.token(), uid)
    assert "service account of namespace" in judged(good, uid, "elsewhere")
    assert "not bound to this pod" in judged(token(kube, namespace, TOKEN_AUDIENCE, None), uid)
    for bad in (pod.token("https://kubernetes.default.svc"), good[:-8] + "AAAAAAAA", "x", good + "A" * 16000):
        assert "rejects its token" in judged(bad, uid)
    pod.remove()
    until("its token ends with the pod", lambda: "rejects its token" in judged(good, uid))


@contextmanager
def stranger(pod: EnginePod, stolen: str) -> Iterator[list[str]]:
    """Answer at a pod's address as a sidecar would, with another pod's token; yield everything that is sent there."""
    received: list[str] = []
    key: BoxKey = new_key()
    uid = pod.uid

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(f"{self.requestline} {self.headers}")
            self._answer(AdapterList(revision="r", engine="vllm", engine_ready=True, base_models=("tiny",)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            received.append(f"{self.requestline} {self.headers} {body!r}")
            handshake = HandshakeRequest.model_validate_json(body)
            text = TokenText(pod=uid, token=stolen).model_dump_json().encode()
            self._answer(HandshakeAnswer(key=key.public, proof=box(text, key, handshake.key) or ""))

        def _answer(self, model: Any) -> None:
            content = model.model_dump_json().encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", pod.sidecar_port), Handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    try:
        yield received
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def _text(kube: Kube, namespace: str) -> str:
    """Return every object of the namespace that users of it may read, but its Secrets."""
    objects = kube.kubectl("-n", namespace, "get", "loraadapters,pods,events,services,configmaps", "-o", "json")
    return json.dumps(json.loads(objects))

"""Credentials of LoraAdapters, on a real API server: read where that is granted, sent in orders, seen nowhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e_cluster.control_plane import ControlPlane
from engine_double.samples import write_adapter

from download_sources import Hub, running_hub
from engine_pods import MakePod, lora_adapter, until_ready
from kube import Kube, condition, until
from operator_process import OPERATOR, OperatorProcess

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
    assert "forbidden" not in process.logged()


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


def until_reason(kube: Kube, namespace: str, reason: str) -> dict[str, Any]:
    return until(
        reason,
        lambda: kube.lora_adapter(namespace, "sql") or {},
        lambda one: condition(one, "Ready").get("reason") == reason,
        within=30,
    )


def test_a_secret_reaches_the_sidecar_and_nothing_else(
    kube: Kube, namespace: str, engine_pod: MakePod, hub: Hub, reader: OperatorProcess, tmp_path: Path
) -> None:
    pod = engine_pod("a")
    kube.apply(private(namespace, hub))
    until_reason(kube, namespace, "SecretNotFound")
    kube.apply(secret(namespace, UNRELATED="x"))
    told = until_reason(kube, namespace, "SecretIncomplete")
    assert "HF_AUTH_TOKEN" in condition(told, "Ready")["message"]
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
    everything = _text(kube, namespace) + reader.logged() + pod.logged() + stored
    for value in (TOKEN, "hf_wrong-and-secret-too"):
        assert value not in everything
        assert base64.b64encode(value.encode()).decode() not in everything


@pytest.mark.usefixtures("operator")
def test_without_the_right_to_read_secrets_the_status_names_the_remedy(
    kube: Kube, namespace: str, engine_pod: MakePod, hub: Hub
) -> None:
    engine_pod("a")
    kube.apply(secret(namespace, HF_AUTH_TOKEN=TOKEN), private(namespace, hub))
    told = until_reason(kube, namespace, "SecretForbidden")
    assert "adapters.secrets.namespaces" in condition(told, "Ready")["message"]


def _text(kube: Kube, namespace: str) -> str:
    """Return every object of the namespace that users of it may read, but its Secrets."""
    objects = kube.kubectl("-n", namespace, "get", "loraadapters,pods,events,services,configmaps", "-o", "json")
    return json.dumps(json.loads(objects))

"""Objects of Kubernetes that the gateway reads: ModelEndpoints, LoraAdapters, their pods and Secrets with keys.

Each is as the API server has it, with what a test does not care about filled in.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from patio_api.endpoint_labels import ENDPOINT, GATEWAY_KEYS, TAKES_REQUESTS
from patio_api.labels import adapter_labels

Object = dict[str, Any]

PATIO = "/apis/patio.dev/v1alpha1"
CREATED = "2026-11-27T10:00:00Z"
LATER = "2026-11-27T11:00:00Z"


def endpoints_path(namespace: str = "team") -> str:
    """Return where the ModelEndpoints of a namespace are."""
    return f"{PATIO}/namespaces/{namespace}/modelendpoints"


def adapters_path(namespace: str = "team") -> str:
    """Return where its LoraAdapters are."""
    return f"{PATIO}/namespaces/{namespace}/loraadapters"


def pods_path(namespace: str = "team") -> str:
    """Return where its pods are."""
    return f"/api/v1/namespaces/{namespace}/pods"


def secrets_path(namespace: str = "patio-system") -> str:
    """Return where its Secrets are."""
    return f"/api/v1/namespaces/{namespace}/secrets"


def _metadata(namespace: str, name: str, created: str | None, **fields: Any) -> Object:
    found: Object = {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}", "resourceVersion": "1"}
    return found | ({"creationTimestamp": created} if created else {}) | fields


def model_endpoint(
    name: str = "m",
    *,
    namespace: str = "team",
    created: str | None = CREATED,
    status: Object | None = None,
    **spec: Any,
) -> Object:
    """Return a ModelEndpoint; `spec` are fields of its spec."""
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "ModelEndpoint",
        "metadata": _metadata(namespace, name, created),
        "spec": {"model": {"uri": "hf://Qwen/Qwen3-8B"}} | spec,
        "status": status or {},
    }


def serving_adapters(**labels: str) -> Object:
    """Return the field `adapters` of a ModelEndpoint that selects LoraAdapters by these labels, or by `for: m`."""
    return {"selector": {"matchLabels": labels or {"for": "m"}}}


def lora_adapter(
    name: str = "sql",
    *,
    namespace: str = "team",
    created: str | None = CREATED,
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Object:
    """Return a LoraAdapter with the label `for: m` unless others are given; `spec` are fields of its spec."""
    source = {"uri": "hf://acme/sql"}
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": _metadata(namespace, name, created, labels={"for": "m"} if labels is None else labels),
        "spec": {"source": source, "selector": {"matchLabels": {ENDPOINT: "m"}}} | spec,
    }


def worker_pod(
    name: str = "m-0",
    *,
    namespace: str = "team",
    endpoint: str = "m",
    ip: str | None = "10.0.0.1",
    port: int = 8000,
    ready: bool = True,
    loaded: Iterable[Object] = (),
    labels: dict[str, str] | None = None,
    **metadata: Any,
) -> Object:
    """Return a pod of a ModelEndpoint that takes requests; `loaded` are LoraAdapters that its labels show."""
    shown = {ENDPOINT: endpoint, TAKES_REQUESTS: "true"}
    for adapter in loaded:
        own = adapter["metadata"]
        shown |= adapter_labels(adapter["spec"].get("adapterName", own["name"]), own["uid"])
    container = {"name": "engine", "image": "i", "ports": [{"name": "http", "containerPort": port}]}
    status: Object = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(namespace, name, CREATED, labels=shown | (labels or {})) | metadata,
        "spec": {"containers": [container]},
        "status": status | ({"podIP": ip} if ip else {}),
    }


def key_secret(
    name: str, *texts: str, namespace: str = "patio-system", created: str | None = CREATED, **metadata: Any
) -> Object:
    """Return a Secret with keys; each text is an entry of its data."""
    data = {f"keys-{number}.yaml": base64.b64encode(text.encode()).decode() for number, text in enumerate(texts)}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(namespace, name, created, labels={GATEWAY_KEYS: "true"}) | metadata,
        "data": data,
    }

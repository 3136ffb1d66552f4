"""The Service of a LoraAdapter: what it should be, and what may be done with what has its name. Pure.

It selects the pods whose labels say that their engine answers by the adapter's name, and from what this LoraAdapter had
loaded, so that a request for the adapter reaches no other pod. It is the LoraAdapter's (owner reference), goes with it,
and never replaces another owner's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from patio_api.labels import ADAPTER_LOADED, ADAPTER_SERVICE, adapter_label, adapter_labels, owners_of
from patio_api.loraadapter import LoraAdapter
from patio_api.owners import controller_uid
from patio_operator.loraadapters.planner.plan import Condition
from patio_operator.pods.engine_pod import EnginePod

PORT = 80
PORT_NAME = "http"

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""What a Service may be called (RFC 1035)."""


@dataclass(frozen=True)
class CachedService:
    """A Service with our label."""

    name: str
    namespace: str
    uid: str
    owner: str
    """UID of the object that controls it; empty: none does."""
    selector: Mapping[str, str]
    ports: tuple[tuple[str, int, str], ...]
    """Name, port and target port of each."""


def decode_service(body: Mapping[str, Any]) -> CachedService:
    """Read a Service as the API server gives it."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    ports = [
        (port.get("name") or "", int(port["port"]), str(port.get("targetPort"))) for port in spec.get("ports") or []
    ]
    return CachedService(
        metadata["name"],
        metadata["namespace"],
        metadata["uid"],
        controller_uid(metadata),
        spec.get("selector") or {},
        tuple(ports),
    )


def service_of(adapter: LoraAdapter, engine_port: int) -> dict[str, Any]:
    """Return the Service of a LoraAdapter whose pods' engines listen on this port."""
    metadata = adapter.metadata
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": {ADAPTER_SERVICE: "true", "app.kubernetes.io/managed-by": "patio"},
            "ownerReferences": [
                {
                    "apiVersion": f"{adapter.group}/{adapter.version}",
                    "kind": adapter.kind,
                    "name": metadata.name,
                    "uid": metadata.uid,
                    "controller": True,
                }
            ],
        },
        "spec": {
            "selector": adapter_labels(adapter.adapter_name, metadata.uid),
            "ports": [{"name": PORT_NAME, "port": PORT, "targetPort": engine_port, "protocol": "TCP"}],
        },
    }


def is_as_wanted(existing: CachedService, wanted: Mapping[str, Any]) -> bool:
    """Tell whether a Service is as `service` says."""
    other = decode_service({**wanted, "metadata": {**wanted["metadata"], "uid": existing.uid}})
    return existing == other


def waits_for_labels(existing: CachedService, adapter: LoraAdapter, pods: Iterable[EnginePod]) -> bool:
    """Tell whether a Service that selects by the name alone, as older versions made them, is to be left for a moment.

    Its pods get the label that says whose adapter they have first: else it would lead nowhere in between.
    """
    if existing.selector != {adapter_label(adapter.adapter_name): ADAPTER_LOADED}:
        return False
    (owner,) = owners_of([(adapter.adapter_name, adapter.metadata.uid)])
    return any(adapter.adapter_name in pod.serving and owner not in pod.owners for pod in pods)


def engine_port(ports: Iterable[int | None]) -> int | None:
    """Return the port that most engines listen on; the lower of two that as many do. None: none is known."""
    counted = Counter(port for port in ports if port is not None)
    return min(counted, key=lambda port: (-counted[port], port), default=None)


def invalid_name(adapter: LoraAdapter) -> Condition | None:
    """Say why there can be no Service of the LoraAdapter's name, if that is so."""
    name = adapter.metadata.name
    if _NAME.fullmatch(name):
        return None
    return Condition(
        "ServiceNameInvalid",
        f"{name!r} is not a valid name of a Service, which has at most 63 lowercase letters, digits and hyphens and "
        "begins with a letter. Give the LoraAdapter another name; spec.adapterName, the name in requests, can stay.",
    )


def name_taken(name: str) -> Condition:
    """Say that another owner's Service has the name."""
    return Condition(
        "ServiceNameTaken",
        f"Service {name} already exists and does not belong to this LoraAdapter, so Patio does not change it. Delete "
        "it, or give the LoraAdapter another name; spec.adapterName, the name in requests, can stay.",
    )

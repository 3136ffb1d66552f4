"""A pod with a sidecar: where the sidecar listens, and which adapters the pod's labels show. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patio_api.labels import adapters_shown, owners_shown
from patio_kube.pods import is_leaving, is_ready
from patio_protocol.adapters import SIDECAR_PORT
from patio_protocol.authentication import OPERATOR_KEYS_VARIABLE

SIDECAR_PORT_NAME = "patio"


@dataclass(frozen=True)
class EnginePod:
    """A pod with a sidecar, as far as placement cares."""

    namespace: str
    name: str
    uid: str
    node: str
    labels: Mapping[str, str]
    ip: str | None
    sidecar_port: int | None = SIDECAR_PORT
    """Where its sidecar listens; None: it has no container that injection could have made."""
    leaving: bool = False
    """Being deleted, or finished: nothing is placed on it any more."""
    ready: bool = True
    """Its condition Ready: Services send it requests."""
    serving: frozenset[str] = frozenset()
    """Names of the adapters that its labels show (`api.labels.adapters_shown`)."""
    owners: frozenset[tuple[str, str]] = frozenset()
    """Whose adapters these are, as its labels show it (`api.labels.owners_shown`)."""

    @property
    def sidecar_url(self) -> str | None:
        """Where its sidecar answers, once it has an address."""
        if self.ip is None or self.sidecar_port is None:
            return None
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.sidecar_port}"


def decode_engine_pod(body: Mapping[str, Any]) -> EnginePod:
    """Read a pod as the API server gives it."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    # Pods of a fleet have most of their labels in common: each text is kept once.
    labels = {sys.intern(key): sys.intern(value) for key, value in (metadata.get("labels") or {}).items()}
    return EnginePod(
        namespace=metadata["namespace"],
        name=sys.intern(metadata["name"]),
        uid=metadata["uid"],
        node=spec.get("nodeName") or "",
        labels=labels,
        ip=status.get("podIP") or None,
        sidecar_port=_sidecar_port(spec),
        leaving=is_leaving(body),
        ready=is_ready(body),
        serving=adapters_shown(labels, metadata.get("annotations") or {}),
        owners=owners_shown(labels),
    )


def _sidecar_port(spec: Mapping[str, Any]) -> int | None:
    """Find the sidecar by what injection gives each: a port of this name, or the operator's keys."""
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    for container in containers:
        for port in container.get("ports") or []:
            if port.get("name") == SIDECAR_PORT_NAME:
                return int(port["containerPort"])
    for container in containers:
        if any(variable.get("name") == OPERATOR_KEYS_VARIABLE for variable in container.get("env") or []):
            return SIDECAR_PORT
    return None

"""What was seen of the pods: the planner's input. Values only, decoded from API objects and sidecars' answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patio.api.protocol import SIDECAR_PORT, AdapterList, AdapterReport

SIDECAR_PORT_NAME = "patio"


@dataclass(frozen=True)
class Pod:
    """A pod with a sidecar, as far as placement cares."""

    namespace: str
    name: str
    uid: str
    node: str
    labels: Mapping[str, str]
    ip: str | None
    sidecar_port: int = SIDECAR_PORT
    leaving: bool = False
    """Being deleted, or finished: nothing is placed on it any more."""

    @property
    def sidecar_url(self) -> str | None:
        """Where its sidecar answers, once it has an address."""
        if self.ip is None:
            return None
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.sidecar_port}"


@dataclass(frozen=True)
class Seen:
    """What is known of a pod's sidecar: its last answer, or why there is none."""

    answer: AdapterList | None = None
    problem: str = ""
    ever_answered: bool = False

    def report(self, name: str) -> AdapterReport | None:
        """Return the sidecar's report on an adapter."""
        if self.answer is None:
            return None
        return next((one for one in self.answer.adapters if one.lora_name == name), None)


NOT_SEEN = Seen(problem="The sidecar has not answered yet.")


def decode_pod(body: Mapping[str, Any]) -> Pod:
    """Read a pod as the API server gives it."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        node=spec.get("nodeName") or "",
        labels=metadata.get("labels") or {},
        ip=status.get("podIP") or None,
        sidecar_port=_sidecar_port(spec),
        leaving=metadata.get("deletionTimestamp") is not None or status.get("phase") in ("Succeeded", "Failed"),
    )


def _sidecar_port(spec: Mapping[str, Any]) -> int:
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        for port in container.get("ports") or []:
            if port.get("name") == SIDECAR_PORT_NAME:
                return int(port["containerPort"])
    return SIDECAR_PORT

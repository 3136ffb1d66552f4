"""What was seen of the pods: the planner's input. Values only, decoded from API objects and sidecars' answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio.api.protocol import SIDECAR_PORT, AdapterList, AdapterReport
from patio_operator.api.labels import marked

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
    ready: bool = True
    """Its condition Ready: Services send it requests."""
    marks: frozenset[str] = frozenset()
    """Names of the adapters that its labels show (`api.labels.marked`)."""

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
    """Why there is no answer, in a sentence."""
    ever_answered: bool = False
    unreachable_since: datetime | None = None
    """When it was first asked in vain. None while it answers, and before anybody asked."""
    last: AdapterList | None = None
    """What it answered before it fell silent: who had what, not what is."""

    @property
    def asked(self) -> bool:
        """Whether it is known to answer or not to."""
        return self.answer is not None or self.unreachable_since is not None

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
        ready=any(one.get("type") == "Ready" and one.get("status") == "True" for one in status.get("conditions") or []),
        marks=marked(metadata.get("labels") or {}, metadata.get("annotations") or {}),
    )


def _sidecar_port(spec: Mapping[str, Any]) -> int:
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        for port in container.get("ports") or []:
            if port.get("name") == SIDECAR_PORT_NAME:
                return int(port["containerPort"])
    return SIDECAR_PORT

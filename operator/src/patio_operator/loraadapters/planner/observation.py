"""What was seen of the pods: the planner's input. Values only, decoded from API objects and sidecars' answers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio_operator.api.labels import adapters_shown, owners_shown
from patio_protocol.adapters import SIDECAR_PORT, AdapterState, PreparedState
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
    """Names of the adapters that its labels show (`api.labels.marked`)."""
    owners: frozenset[tuple[str, str]] = frozenset()
    """Whose adapters these are, as its labels show it (`api.labels.owners_shown`)."""

    @property
    def sidecar_url(self) -> str | None:
        """Where its sidecar answers, once it has an address."""
        if self.ip is None or self.sidecar_port is None:
            return None
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.sidecar_port}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Files that were asked for ahead of their use (`patio_protocol.adapters.PreparedReport`)."""

    revision: str | None
    state: PreparedState
    reason: str
    message: str = ""
    retryable: bool = True
    credentials_revision: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a sidecar says of one adapter: of `patio_protocol.adapters.AdapterReport` what is planned from.

    A large fleet has hundreds of thousands: these are small, and share their texts.
    """

    lora_name: str
    state: AdapterState
    owner: str | None = None
    revision: str | None = None
    reason: str = ""
    message: str = ""
    attempts: int = 0
    since: float = 0.0
    held_revision: str | None = None
    credentials_revision: str | None = None
    prepared: Prepared | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many adapters an engine was started for; None: it does not tell."""

    batch: int | None = None
    loaded: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a sidecar says (`patio_protocol.adapters.AdapterList`); read by `reports`."""

    revision: str
    engine_ready: bool
    base_models: tuple[str, ...] = ()
    adapters: tuple[Report, ...] = ()
    capacity: Capacity = Capacity()
    on_disk: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of a pod's sidecar: its last answer, or why there is none."""

    answer: Answer | None = None
    problem: str = ""
    """Why there is no answer, in a sentence."""
    ever_answered: bool = False
    unreachable_since: datetime | None = None
    """When it was first asked in vain. None while it answers, and before anybody asked."""
    last: Answer | None = None
    """What it answered before it fell silent: who had what, not what is."""

    @property
    def asked(self) -> bool:
        """Whether it is known to answer or not to."""
        return self.answer is not None or self.unreachable_since is not None

    def report(self, name: str) -> Report | None:
        """Return the sidecar's report on an adapter."""
        if self.answer is None:
            return None
        return next((one for one in self.answer.adapters if one.lora_name == name), None)


UNOBSERVED = Observation(problem="The sidecar has not answered yet.")


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
        leaving=metadata.get("deletionTimestamp") is not None or status.get("phase") in ("Succeeded", "Failed"),
        ready=any(one.get("type") == "Ready" and one.get("status") == "True" for one in status.get("conditions") or []),
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
        if any(one.get("name") == OPERATOR_KEYS_VARIABLE for one in container.get("env") or []):
            return SIDECAR_PORT
    return None

"""What a plan of a ModelEndpoint is made from: the endpoint and what there is of it at one moment. Values only.

`decode_group` and `decode_pod` reduce what the API server has to what is planned from; anybody may have written it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from patio_api import labels
from patio_api.bounded_json import read_object
from patio_api.conditions import find, time_of
from patio_api.endpoint_labels import ENDPOINT_REVISION, SHAPE
from patio_api.model_endpoint import ModelEndpoint
from patio_operator.modelendpoints.demand import UNKNOWN, Demand

_WAITS = "RoleNotReady"
"""Reason of a group whose pods are made and are not ready, with Patio and with upstream's controller. Every other one
says why they are not made."""
_MOST = 10_000
"""Instances of a role that a group's numbers are believed to be."""


class GroupSupport(StrEnum):
    """Whether RoleBasedGroups become pods in this cluster."""

    REALISED = "Realised"
    """By Patio, or by upstream's controller."""
    NO_KIND = "NoKind"
    """The API server does not know the kind."""
    OFF = "Off"
    """Patio leaves groups alone (`groups.mode: off`), and upstream's controller is not there."""


class PodState(StrEnum):
    """What a pod waits for, or how it failed."""

    READY = "Ready"
    SCHEDULING = "Scheduling"
    PULLING = "Pulling"
    LOADING = "Loading"
    FAILING = "Failing"


@dataclass(frozen=True)
class ObservedPod:
    """A pod of the endpoint."""

    name: str
    uid: str
    group: str
    """Name of its RoleBasedGroup."""
    role: str
    index: int
    """Of the instance that it is in."""
    leads: bool
    """Whether it stands for its instance: the only pod of it, or the leader of several."""
    state: PodState
    message: str
    """What it waits for or how it failed, in the words of Kubernetes or the engine."""
    since: datetime
    """Since when it has been ready, or has not been."""
    injected: bool
    """Whether it has a sidecar."""
    leaving: bool


@dataclass(frozen=True)
class ObservedGroup:
    """A RoleBasedGroup that was made of the endpoint."""

    name: str
    uid: str
    resource_version: str
    revision: str
    created: datetime
    workers: int
    """That it is to have."""
    shape: Mapping[str, int]
    """How many instances of each role are one worker (`endpoint_labels.SHAPE`)."""
    roles: Sequence[Mapping[str, Any]] = field(repr=False)
    """Its spec.roles as they are."""
    leaving: bool = False
    problem: str = ""
    """Why its pods are not made, in the words of who realises it; empty: they are."""
    message: str = ""
    """What it waits for, in the same words."""


@dataclass(frozen=True)
class Claim:
    """Another ModelEndpoint, as far as its names concern this one."""

    key: str
    """`namespace/name`."""
    names: tuple[str, ...]
    created: datetime


@dataclass(frozen=True)
class Snapshot:
    """A ModelEndpoint."""

    endpoint: ModelEndpoint
    now: datetime
    """When it was taken; UTC."""
    groups: Sequence[ObservedGroup] = ()
    """That the endpoint owns."""
    pods: Sequence[ObservedPod] = ()
    """Of those groups."""
    service_owner: str | None = None
    """UID of who owns the Service of the endpoint's name; empty: nobody; None: there is no such Service."""
    sidecars: Mapping[str, str] = field(default_factory=dict)
    """The profiles that there are, each with the name of its sidecar's container."""
    adapters: Sequence[str] = ()
    """Names in requests of the LoraAdapters that its selector matches."""
    claims: Sequence[Claim] = ()
    """Other ModelEndpoints, of all namespaces."""
    demand: Demand = UNKNOWN
    downloads: Mapping[str, int] = field(default_factory=dict)
    """How much of the model has been downloaded in a pod, in percent, by the pod's UID, where its sidecar says so."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Of the engines, for roles that name none."""
    gateway_url: str = ""
    """Where clients reach the gateway; empty: there is none."""
    group_support: GroupSupport = GroupSupport.REALISED


def decode_group(body: Mapping[str, Any]) -> ObservedGroup:
    """Reduce a RoleBasedGroup as the API server gives it."""
    metadata = body["metadata"]
    shape = {
        role: each
        for role, each in read_object((metadata.get("annotations") or {}).get(SHAPE)).items()
        if isinstance(each, int) and not isinstance(each, bool) and 0 < each <= _MOST
    }
    roles = (body.get("spec") or {}).get("roles") or []
    workers = [int(role.get("replicas", 1)) // shape[role["name"]] for role in roles if role.get("name") in shape]
    ready = find(body.get("status") or {}, "Ready")
    message = str(ready.get("message") or "") if ready.get("status") == "False" else ""
    return ObservedGroup(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        revision=(metadata.get("labels") or {}).get(ENDPOINT_REVISION, ""),
        created=time_of(metadata["creationTimestamp"]),
        workers=min(workers, default=0),
        shape=shape,
        roles=roles,
        leaving=metadata.get("deletionTimestamp") is not None,
        problem=f"{ready.get('reason')}: {message}" if message and ready.get("reason") != _WAITS else "",
        message=message,
    )


def decode_pod(body: Mapping[str, Any]) -> ObservedPod | None:
    """Reduce a pod as the API server gives it; None for one that no group can have made."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    found = labels.group_and_role(metadata.get("labels") or {})
    if found is None:
        return None
    group, role = found
    place = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", metadata["name"].removeprefix(f"{group}-{role}-"))
    if place is None:
        return None
    conditions = {condition.get("type"): condition for condition in status.get("conditions") or []}
    ready = conditions.get("Ready") or {}
    state, message = _state(spec, status, conditions)
    return ObservedPod(
        name=metadata["name"],
        uid=metadata["uid"],
        group=group,
        role=role,
        index=int(place[1]),
        leads=place[2] in (None, "0"),
        state=state,
        message=message,
        since=time_of(ready.get("lastTransitionTime") or metadata["creationTimestamp"]),
        injected=(metadata.get("labels") or {}).get(labels.INJECTED) == "true",
        leaving=metadata.get("deletionTimestamp") is not None,
    )


_BROKEN = frozenset(
    (
        *("CrashLoopBackOff", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
        *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
    )
)
"""Reasons of a container that waits, for which it waits in vain until somebody does something."""


def _state(
    spec: Mapping[str, Any], status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]
) -> tuple[PodState, str]:
    if status.get("phase") == "Failed":
        return PodState.FAILING, status.get("message") or status.get("reason") or "the pod failed"
    if conditions.get("Ready", {}).get("status") == "True":
        return PodState.READY, ""
    if not spec.get("nodeName"):
        scheduled = conditions.get("PodScheduled", {})
        return PodState.SCHEDULING, scheduled.get("message") or "it waits for a node"
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _BROKEN:
            return PodState.FAILING, _why(container, waiting)
    for container in containers:
        state = container.get("state") or {}
        if "waiting" in state:
            waiting = state["waiting"] or {}
            message = waiting.get("message") or "its image is pulled, or a volume is mounted"
            return PodState.PULLING, f"container {container.get('name')!r}: {message}"
        ended = state.get("terminated") or {}
        if ended.get("exitCode"):
            return PodState.FAILING, _ended(container, ended)
    return (PodState.LOADING, "") if containers else (PodState.PULLING, "its volumes are mounted")


def _why(container: Mapping[str, Any], waiting: Mapping[str, Any]) -> str:
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if waiting["reason"] == "CrashLoopBackOff" and ended:
        return f"{_ended(container, ended)}; it has restarted {container.get('restartCount', 0)} times"
    return f"container {container.get('name')!r}: {waiting['reason']}: {waiting.get('message') or 'no message'}"


def _ended(container: Mapping[str, Any], ended: Mapping[str, Any]) -> str:
    text = ended.get("message") or ended.get("reason") or "no message"
    return f"container {container.get('name')!r} ended with exit code {ended.get('exitCode')}: {text}"

"""What `plan` returns, and the error that ends it inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio_api.events import Event


@dataclass(frozen=True)
class ObjectRef:
    """An object to delete or to adopt: the one with this UID and no other of that name."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


def ref_of(child: Mapping[str, Any]) -> ObjectRef:
    """Return the reference of an object that is there."""
    metadata = child["metadata"]
    return ObjectRef(child["apiVersion"], child["kind"], metadata["namespace"], metadata["name"], metadata["uid"])


@dataclass(frozen=True)
class Plan:
    """What to do for a group: the fields in this order, each in its own."""

    checks: tuple[dict[str, Any], ...] = ()
    """Pods that the API server must be willing to create; nothing of the plan is done when it is not."""
    adopts: tuple[ObjectRef, ...] = ()
    """Pods that get the group as their owner."""
    tear_down: tuple[ObjectRef, ...] = ()
    """Pods to delete. They go before what is remembered of them is written."""
    applies: tuple[dict[str, Any], ...] = ()
    creates: tuple[dict[str, Any], ...] = ()
    """Pods to create."""
    deletes: tuple[ObjectRef, ...] = ()
    events: tuple[Event, ...] = ()
    status: dict[str, Any] | None = None
    """The whole status; None to leave it as it is."""
    requeue_at: datetime | None = None
    """When to plan again though nothing changed."""


class GroupError(Exception):
    """Why nothing of a group can be realised. The reason goes into the Ready condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

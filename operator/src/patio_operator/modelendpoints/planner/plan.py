"""What `planner.plan` returns. Data only; the reconciler carries it out in the order of the fields, each in its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Apply:
    """An object to apply server-side, by Patio's field manager."""

    body: Object
    reason: str


@dataclass(frozen=True)
class Resize:
    """A group that gets another number of workers, by a merge patch that holds for the object that was observed."""

    group: str
    patch: Object
    workers_before: int
    workers: int
    reason: str


@dataclass(frozen=True)
class Delete:
    """A group to delete: the one with this UID and no other of that name."""

    group: str
    uid: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What to do for a ModelEndpoint."""

    replicas: int | None = None
    """What to write to spec.workers.replicas, which has no value yet: without one the scale subresource cannot be read,
    and a HorizontalPodAutoscaler does nothing."""
    applies: tuple[Apply, ...] = ()
    resizes: tuple[Resize, ...] = ()
    deletes: tuple[Delete, ...] = ()
    status: Object | None = None
    """The whole status; None to leave it as it is."""
    requeue_at: datetime | None = None
    """When to plan again though nothing changed; UTC."""

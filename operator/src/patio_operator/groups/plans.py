"""What `plan` returns, and the error that ends it inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Ref:
    """An object to delete: the one with this UID and no other of that name."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class Event:
    """Something that happened to a group, for its users."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class GroupPlan:
    """What to do for a group. Applies come before deletes, in this order."""

    applies: tuple[dict[str, Any], ...]
    deletes: tuple[Ref, ...]
    status: dict[str, Any]
    events: tuple[Event, ...] = ()


class GroupError(Exception):
    """Why nothing of a group can be realised. The reason goes into the Ready condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

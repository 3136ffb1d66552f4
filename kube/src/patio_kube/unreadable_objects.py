"""Records an event on each object that cannot be read: its owner cannot see the log of who reads it.

Comes after `informer`, which leaves such objects out, and before `pending_events`, where they wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patio_kube.pending_events import PendingEvents
from patio_kube.resources import Resource


class UnreadableObjects:
    """Notes an event for each object that cannot be read."""

    def __init__(self, events: PendingEvents, reader: str) -> None:
        """Take where events wait, and who reads, as sentences name it."""
        self._events = events
        self._reader = reader

    def note(self, kind: Resource, body: Mapping[str, Any], why: str) -> None:
        """Have an event recorded about an object, unless too many others wait for that."""
        message = f"The {self._reader} cannot read this object and ignores it: {why}"
        self._events.note(kind, body["metadata"], "Unreadable", message)

"""Records an event on each object that cannot be read: its owner cannot see the operator's log.

Comes after `informer`, which leaves such objects out. Objects wait here until the replica leads, a bounded number of
them, and get their events one after the other: their owners may make as many as they like.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from patio_kube import events
from patio_kube.client import KubeClient, Object
from patio_kube.resources import Resource

MOST_WAITING = 100
EVENT_SECONDS = 1.0
"""Between two events."""


class UnreadableObjects:
    """Records an event for each object that is noted, while `run` runs."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._waiting: dict[tuple[str, str, str], tuple[Object, str]] = {}
        self._some = asyncio.Event()

    def note(self, kind: Resource, body: Mapping[str, Any], why: str) -> None:
        """Have an event recorded about an object, unless too many others wait for that."""
        metadata = body["metadata"]
        key = kind.kind, metadata.get("namespace", ""), metadata["name"]
        if key in self._waiting or len(self._waiting) < MOST_WAITING:
            own = {name: metadata[name] for name in ("name", "namespace", "uid") if name in metadata}
            self._waiting[key] = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": own}, why
            self._some.set()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    async def run(self) -> None:
        """Record events until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                about, why = self._waiting.pop(next(iter(self._waiting)))
                message = f"The operator cannot read this object and ignores it: {why}"
                await events.record(self._client, about, "Warning", "Unreadable", message)
                await asyncio.sleep(EVENT_SECONDS)

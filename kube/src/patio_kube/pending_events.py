"""Events that wait to be recorded: a bounded number of them, one after the other.

What makes them is what users write, and users may write as much as they like. Comes after whatever reads objects, and
before `events`. Each object has one event of a reason waiting at most.
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


class PendingEvents:
    """Records the events that are noted, while `run` runs."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._waiting: dict[tuple[str, str, str, str], tuple[Object, str]] = {}
        self._some = asyncio.Event()

    def note(self, kind: Resource, metadata: Mapping[str, Any], reason: str, message: str) -> None:
        """Have a warning recorded about an object, unless too many others wait for that.

        Args:
            kind: of the object.
            metadata: its name, and namespace and uid where it has them.
            reason: in one CamelCase word.
            message: in a sentence.

        """
        key = kind.kind, metadata.get("namespace", ""), metadata["name"], reason
        if key in self._waiting or len(self._waiting) < MOST_WAITING:
            own = {name: metadata[name] for name in ("name", "namespace", "uid") if name in metadata}
            about = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": own}
            self._waiting[key] = about, message
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
                key = next(iter(self._waiting))
                about, message = self._waiting.pop(key)
                await events.record(self._client, about, "Warning", key[-1], message)
                await asyncio.sleep(EVENT_SECONDS)

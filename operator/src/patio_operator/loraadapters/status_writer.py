"""Writes the statuses of LoraAdapters: what changed at once, and after that at most once a second for each object.

A write that has to wait is not lost: the next pass computes the status again, and what is written is what is true then.
The events of a change are recorded with the write that tells of it, so that none is recorded twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patio_kube import events
from patio_kube.client import ConflictError, KubeClient, NotFoundError
from patio_kube.informer import Informer
from patio_kube.resources import LORA_ADAPTER
from patio_operator.loraadapters.caches import CachedAdapter
from patio_operator.loraadapters.planner.status import events as events_of
from patio_operator.loraadapters.planner.status import is_recorded

WRITE_SECONDS = 1.0


class StatusWriter:
    """Writes statuses."""

    def __init__(self, client: KubeClient, adapters: Informer[CachedAdapter], clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._client = client
        self._adapters = adapters
        self._clock = clock
        self._written: dict[tuple[str, str], float] = {}

    async def write(self, cached: CachedAdapter, after: dict[str, Any]) -> float | None:
        """Write a status if it changed; return after how many seconds that may be done, if not now."""
        if is_recorded(cached.status, after):
            return None
        metadata = cached.adapter.metadata
        key = (metadata.namespace, metadata.name)
        wait = self._written.get(key, -WRITE_SECONDS) + WRITE_SECONDS - self._clock()
        if wait > 0:
            return wait
        removed: dict[str, Any] = dict.fromkeys(cached.status.rest.keys() - after.keys())
        # Of an object that was deleted and recreated, the UID would not fit.
        patch = {"metadata": {"uid": metadata.uid}, "status": removed | after}
        try:
            body = await self._client.merge(LORA_ADAPTER, metadata.name, metadata.namespace, patch, "status")
        except (NotFoundError, ConflictError):
            return None
        self._written[key] = self._clock()  # when it was answered: the next is a second later than this was stored
        self._adapters.observe_write(body)
        for happened in events_of(cached.status, after):
            await events.record(self._client, cached.reference, happened.type, happened.reason, happened.message)
        return None

    def forget(self, namespace: str, name: str) -> None:
        """Forget a LoraAdapter that is gone."""
        self._written.pop((namespace, name), None)

"""Writes the statuses of LoraAdapters: what changed at once, and after that at most once a second for each object.

A write that has to wait is not lost: the next pass computes the status anew, and what is written is what is true then.
The events of a change are recorded with the write that tells of it, so that none is told twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patio_operator.cluster import events
from patio_operator.cluster.api import Cluster, ConflictError, NotFoundError
from patio_operator.cluster.kinds import LORA_ADAPTER
from patio_operator.cluster.known import KnownAdapter
from patio_operator.cluster.watched import Watched
from patio_operator.placement.status import events as events_of
from patio_operator.placement.status import says

WRITE_SECONDS = 1.0


class Statuses:
    """Writes statuses."""

    def __init__(self, cluster: Cluster, adapters: Watched[KnownAdapter], clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._cluster = cluster
        self._adapters = adapters
        self._clock = clock
        self._written: dict[tuple[str, str], float] = {}

    async def write(self, known: KnownAdapter, after: dict[str, Any]) -> float | None:
        """Write a status if it changed; return after how many seconds that may be done, if not now."""
        if says(known.status, after):
            return None
        metadata = known.adapter.metadata
        key = (metadata.namespace, metadata.name)
        wait = self._written.get(key, -WRITE_SECONDS) + WRITE_SECONDS - self._clock()
        if wait > 0:
            return wait
        gone: dict[str, Any] = dict.fromkeys(known.status.rest.keys() - after.keys())
        # Of an object that was deleted and made anew, the UID would not fit.
        patch = {"metadata": {"uid": metadata.uid}, "status": gone | after}
        try:
            body = await self._cluster.merge(LORA_ADAPTER, metadata.name, metadata.namespace, patch, "status")
        except (NotFoundError, ConflictError):
            return None
        self._written[key] = self._clock()  # when it was answered: the next is a second later than this was stored
        self._adapters.took(body)
        for happened in events_of(known.status, after):
            await events.record(self._cluster, known.reference, happened.type, happened.reason, happened.message)
        return None

    def forget(self, namespace: str, name: str) -> None:
        """Forget a LoraAdapter that is gone."""
        self._written.pop((namespace, name), None)

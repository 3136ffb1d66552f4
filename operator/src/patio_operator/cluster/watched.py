"""All objects of a kind, decoded, kept up to date by a watch of our own: what an admission reads without asking.

kopf stops watching in a standby replica, which answers admissions like the leader; these watches run in every replica.
What is here may be some milliseconds old, and is only to be used while `fresh`: when the watch is lost, whoever reads
asks the API server instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Generic, TypeVar

from patio_operator.cluster.api import ApiError, Cluster, Object
from patio_operator.cluster.kinds import Kind

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
GONE = 410

T = TypeVar("T")


class Watched(Generic[T]):
    """The objects of one kind in all namespaces; `run` keeps them."""

    def __init__(self, cluster: Cluster, kind: Kind, decode: Callable[[Object], T | None]) -> None:
        self._cluster = cluster
        self._kind = kind
        self._decode = decode
        self._objects: dict[str, dict[str, T]] = {}
        self.fresh = False
        """Whether the watch is there, so that what is here is as it is in the API server."""

    def get(self, name: str, namespace: str = "") -> T | None:
        """Return an object; None when it is not here."""
        return self._objects.get(namespace, {}).get(name)

    def all(self, namespace: str = "") -> list[T]:
        """Return the objects of a namespace, those without one by default."""
        return list(self._objects.get(namespace, {}).values())

    async def run(self) -> None:
        """Keep them until cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                version = await self._list()
                self.fresh = True
                pause = FIRST_PAUSE
                while version:
                    version = await self._follow(version)
            except ApiError as error:
                log.warning("watch of %s lost, again in %.1f s: %s", self._kind.plural, pause, error.message)
                self.fresh = False
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _list(self) -> str:
        items, version = await self._cluster.list_versioned(self._kind)
        self._objects = {}
        for item in items:
            self._put(item)
        return version

    async def _follow(self, version: str) -> str:
        """Watch until the API server ends it; return where to go on, empty when that is too long ago."""
        async with aclosing(self._cluster.watch(self._kind, version)) as events:
            async for event in events:
                type_, body = event["type"], event["object"]
                if type_ == "ERROR":
                    if body.get("code") == GONE:
                        return ""
                    raise ApiError(int(body.get("code") or 0), str(body.get("message")))
                version = body["metadata"]["resourceVersion"]
                if type_ == "DELETED":
                    self._objects.get(body["metadata"].get("namespace", ""), {}).pop(body["metadata"]["name"], None)
                elif type_ != "BOOKMARK":
                    self._put(body)
        return version

    def _put(self, body: Object) -> None:
        metadata = body["metadata"]
        of_namespace = self._objects.setdefault(metadata.get("namespace", ""), {})
        decoded = self._decode(body)
        if decoded is None:
            of_namespace.pop(metadata["name"], None)
        else:
            of_namespace[metadata["name"]] = decoded

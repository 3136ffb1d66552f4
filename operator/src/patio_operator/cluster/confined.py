"""A cluster of which only some namespaces are looked at: reads of all namespaces become reads of each of these.

The chart binds the operator's role in them alone (`watchNamespaces`), and the API server refuses a list or a watch of
all. Whoever reads need not know: `watched` and all others ask for everything, and get what there is in the namespaces
that are watched. What is of no namespace, such as a profile, and what is asked for in one is read as always.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from kubernetes.aio import client

from patio_operator.cluster.api import EVERYTHING, Cluster, Object, Scope
from patio_operator.cluster.kinds import Kind

_AT_ONCE = 64
"""Events that wait to be taken."""


class ConfinedCluster(Cluster):
    """Reads and writes objects of some namespaces."""

    namespaces: tuple[str, ...] = ()

    def __init__(self, api_client: client.ApiClient) -> None:
        super().__init__(api_client)
        self._versions: dict[tuple[Kind, Scope], dict[str, str]] = {}
        """Where each namespace's watch of a kind goes on: the versions of several are in no order that counts."""

    async def list_all(self, kind: Kind, namespace: str | None = None, *rest: Any, **named: Any) -> list[Object]:
        """Read all objects of a kind, of all namespaces that are watched when none is given."""
        if not self._means_all(kind, namespace):
            return await super().list_all(kind, namespace, *rest, **named)
        found: list[Object] = []
        for one in self.namespaces:
            found += await super().list_all(kind, one, *rest, **named)
        return found

    async def pages(
        self, kind: Kind, scope: Scope = EVERYTHING, *rest: Any, **named: Any
    ) -> AsyncGenerator[tuple[list[Object], str], None]:
        """Read all objects, some at a time; the last page has the version from which a watch goes on."""
        if not self._means_all(kind, scope.namespace):
            async with aclosing(super().pages(kind, scope, *rest, **named)) as pages:
                async for page in pages:
                    yield page
            return
        versions: dict[str, str] = {}
        for one in self.namespaces:
            async with aclosing(super().pages(kind, replace(scope, namespace=one), *rest, **named)) as pages:
                async for items, version in pages:
                    versions[one] = version
                    yield items, version
        yield [], json.dumps(versions)

    async def watch(self, kind: Kind, since: str, scope: Scope = EVERYTHING) -> AsyncGenerator[Object, None]:
        """Yield the events of all namespaces that are watched, until the API server ends the watch of one of them.

        Args:
            kind: of the objects.
            since: what `pages` said last, or the version of the last event: then each namespace goes on where it was.
            scope: which of the objects.

        """
        if not self._means_all(kind, scope.namespace):
            async with aclosing(super().watch(kind, since, scope)) as one_watch:
                async for event in one_watch:
                    yield event
            return
        if since.startswith("{"):
            self._versions[kind, scope] = json.loads(since)
        versions = self._versions.get((kind, scope))
        if versions is None:
            yield {"type": "ERROR", "object": {"code": 410, "message": "nothing has been listed yet"}}
            return
        events: asyncio.Queue[tuple[str, Object]] = asyncio.Queue(_AT_ONCE)
        tasks = [
            asyncio.create_task(self._follow(kind, versions[one], replace(scope, namespace=one), events))
            for one in self.namespaces
        ]
        taking = asyncio.create_task(events.get())
        try:
            while True:
                done, _ = await asyncio.wait({taking, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                if taking in done:
                    where, event = taking.result()
                    taking = asyncio.create_task(events.get())
                    if event.get("type") != "ERROR":
                        versions[where] = event["object"]["metadata"]["resourceVersion"]
                    yield event
                    continue
                for task in done:
                    task.result()  # raises what ended it
                return
        finally:
            for task in (taking, *tasks):
                task.cancel()
            await asyncio.gather(taking, *tasks, return_exceptions=True)

    async def _follow(self, kind: Kind, since: str, scope: Scope, events: asyncio.Queue[tuple[str, Object]]) -> None:
        assert scope.namespace is not None
        async with aclosing(super().watch(kind, since, scope)) as one_watch:
            async for event in one_watch:
                await events.put((scope.namespace, event))

    def _means_all(self, kind: Kind, namespace: str | None) -> bool:
        return kind.namespaced and namespace is None


async def connect(namespaces: Sequence[str], *how: Any) -> Cluster:
    """Connect to the namespaces that are named, or to all; `how` as `Cluster.connect` wants it."""
    if not namespaces:
        return await Cluster.connect(*how)
    cluster = await ConfinedCluster.connect(*how)
    assert isinstance(cluster, ConfinedCluster)
    cluster.namespaces = tuple(namespaces)
    return cluster

"""Objects of a kind, decoded, kept up to date by a watch: what admissions and planners read without asking.

One for a kind and scope in the process, shared by all who read it; it runs in every replica, so that a standby is warm.
What is kept of an object is what `decode` returns of it, and listeners are told only when that changes: of a pod's many
events few matter. What is here may be some milliseconds old, and is only to be used while `fresh`. Who wrote an object
gives the answer to `took`, and who begins to lead asks for a `refresh`, so that neither acts on what was before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from patio_operator.cluster.api import EVERYTHING, ApiError, Cluster, Object, Scope
from patio_operator.cluster.kinds import Kind

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
GONE = 410

T = TypeVar("T")

Listener = Callable[[str, T | None, T | None], None]
"""Is called with a namespace, and what was there and what is there of one object; None: nothing."""


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    uid: str
    version: str
    value: T


_Objects = dict[str, dict[str, _Kept[T]]]


class Watched(Generic[T]):
    """The objects of one kind and scope; `run` keeps them."""

    def __init__(
        self, cluster: Cluster, kind: Kind, decode: Callable[[Object], T | None], scope: Scope = EVERYTHING
    ) -> None:
        """`decode` returns what to keep of an object, comparable, and None for one that is of no interest."""
        self._cluster = cluster
        self._kind = kind
        self._decode = decode
        self._scope = scope
        self._objects: _Objects[T] = {}
        self._asked: list[asyncio.Future[None]] = []
        self._ask = asyncio.Event()
        self._listeners: list[Listener[T]] = []
        self.fresh = False
        """Whether the watch is there, so that what is here is as it is in the API server."""
        self.problem = "the API server has not answered yet"
        """Why it is not fresh."""
        self.forbidden = False
        """Whether that is a lack of rights."""

    def listen(self, listener: Listener[T]) -> None:
        """Have somebody told of every change from now on."""
        self._listeners.append(listener)

    def get(self, name: str, namespace: str = "") -> T | None:
        """Return an object; None when it is not here."""
        kept = self._objects.get(namespace, {}).get(name)
        return None if kept is None else kept.value

    def all(self, namespace: str = "") -> list[T]:
        """Return the objects of a namespace, those without one by default."""
        return [kept.value for kept in self._objects.get(namespace, {}).values()]

    def namespaces(self) -> list[str]:
        """Return the namespaces that have any."""
        return list(self._objects)

    def took(self, body: Object) -> None:
        """Take in what the API server answered to a write, before the watch tells of it. Listeners are not told."""
        metadata = body["metadata"]
        kept = self._objects.get(metadata.get("namespace", ""), {}).get(metadata["name"])
        if kept is not None and kept.uid == metadata["uid"] and not _older(metadata["resourceVersion"], kept.version):
            self._keep(self._objects, body)

    async def refresh(self) -> None:
        """Have everything read anew, and wait for that; `run` does it, so that no event falls in between."""
        done = asyncio.get_running_loop().create_future()
        self._asked.append(done)
        self._ask.set()
        await done

    async def run(self) -> None:
        """Keep them until cancelled."""
        pause = FIRST_PAUSE
        while True:
            asked = len(self._asked)
            self._ask.clear()
            try:
                version = await self._list()
                self.fresh = True
                pause = FIRST_PAUSE
                for done in self._asked[:asked]:
                    if not done.done():
                        done.set_result(None)
                del self._asked[:asked]
                while version:
                    version = await self._follow_until_asked(version)
            except ApiError as error:
                log.warning("watch of %s lost, again in %.1f s: %s", self._kind.plural, pause, error.message)
                self.fresh, self.problem, self.forbidden = False, error.message, error.status == 403
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _list(self) -> str:
        found: _Objects[T] = {}
        version = ""
        async with aclosing(self._cluster.pages(self._kind, self._scope)) as pages:
            async for items, page_version in pages:
                for item in items:
                    self._keep(found, item)
                version = page_version
        before, self._objects = self._objects, found
        for namespace in before.keys() | found.keys():
            was, there = before.get(namespace, {}), found.get(namespace, {})
            for name in was.keys() | there.keys():
                self._tell(namespace, was.get(name), there.get(name))
        return version

    async def _follow_until_asked(self, version: str) -> str:
        """Watch until the API server ends it, or a reading is asked for; return where to go on, empty for a reading."""
        following = asyncio.create_task(self._follow(version), name=f"watch {self._kind.plural}")
        asking = asyncio.create_task(self._ask.wait())
        try:
            await asyncio.wait((following, asking), return_when=asyncio.FIRST_COMPLETED)
            return "" if self._ask.is_set() else following.result()
        finally:
            asking.cancel()
            following.cancel()
            await asyncio.gather(asking, following, return_exceptions=True)

    async def _follow(self, version: str) -> str:
        """Watch until the API server ends it; return where to go on, empty when that is too long ago."""
        async with aclosing(self._cluster.watch(self._kind, version, self._scope)) as events:
            async for event in events:
                type_, body = event["type"], event["object"]
                if type_ == "ERROR":
                    if body.get("code") == GONE:
                        return ""
                    raise ApiError(int(body.get("code") or 0), str(body.get("message")))
                version = body["metadata"]["resourceVersion"]
                if type_ == "DELETED":
                    self._drop(body)
                elif type_ != "BOOKMARK":
                    self._put(body)
        return version

    def _put(self, body: Object) -> None:
        metadata = body["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        kept = self._objects.get(namespace, {}).get(name)
        version = metadata["resourceVersion"]
        if kept is not None and (version == kept.version or _older(version, kept.version)):
            return  # known from an answer to a write, or from a later reading
        self._keep(self._objects, body)
        self._tell(namespace, kept, self._objects.get(namespace, {}).get(name))

    def _drop(self, body: Object) -> None:
        metadata = body["metadata"]
        namespace = metadata.get("namespace", "")
        kept = self._objects.get(namespace, {}).get(metadata["name"])
        if kept is not None and not _older(metadata["resourceVersion"], kept.version):
            self._forget(self._objects, namespace, metadata["name"])
            self._tell(namespace, kept, None)

    def _keep(self, objects: _Objects[T], body: Object) -> None:
        metadata = body["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        decoded = self._decode(body)
        if decoded is None:
            self._forget(objects, namespace, name)
        else:
            kept = _Kept(metadata["uid"], metadata["resourceVersion"], decoded)
            objects.setdefault(namespace, {})[name] = kept

    @staticmethod
    def _forget(objects: _Objects[T], namespace: str, name: str) -> None:
        of_namespace = objects.get(namespace, {})
        if of_namespace.pop(name, None) is not None and not of_namespace:
            del objects[namespace]

    def _tell(self, namespace: str, before: _Kept[T] | None, after: _Kept[T] | None) -> None:
        was = None if before is None else before.value
        there = None if after is None else after.value
        if was != there:
            for listener in self._listeners:
                listener(namespace, was, there)


def _older(version: str, than: str) -> bool:
    """Whether a resourceVersion is of an earlier time. Kubernetes counts them, and says so in writing since 1.35."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)

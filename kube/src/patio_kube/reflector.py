"""Reflector: lists and watches the objects of one resource, in one namespace or in all, and keeps them decoded.

`informer` has one of these, or one for each namespace, and is what others read. What is kept of an object is what
`decode` returns of it, and event handlers are called only when that changes: of a pod's many events few matter. An
object that cannot be decoded is left out, with a line in the log, and ends nothing. A watch that is lost keeps what it
knew, says that it is not synced, and tries again after a pause that grows.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from patio_kube.bodies import TooDeep
from patio_kube.client import GONE, SLICE_SECONDS, ApiError, KubeClient, Object, Scope
from patio_kube.resources import Resource
from patio_protocol.backoff import exponential, with_jitter

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.8
LONGEST_PAUSE = 30.0
"""Seconds between tries, as client-go has them for its watches."""
HEALTHY_SECONDS = 1.0
"""A watch that ends sooner and had no event is a failure, as in client-go: begun again, it would end as soon."""
MOST_RESUMED = 2
"""How many failures of that kind in a row are bridged by the next watch; after these everything is listed again."""
COMPLAINTS = 10
COMPLAINT_SECONDS = 10.0
"""So many objects that cannot be decoded are logged in so much time: their owners may change them all the time."""

T = TypeVar("T")

EventHandler = Callable[[str, T | None, T | None], None]
"""Is called with a namespace, and what was there and what is there of one object; None: nothing."""
Lost = Callable[[Resource], None]
Unreadable = Callable[[Resource, Object, str], None]
"""Is called with the kind of an object that cannot be decoded, its body, of which metadata is there, and why."""


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    uid: str
    version: str
    value: T


_Objects = dict[str, dict[str, _Kept[T]]]


class Reflector(Generic[T]):
    """The objects of one kind and scope; `run` keeps them."""

    def __init__(
        self,
        client: KubeClient,
        kind: Resource,
        decode: Callable[[Object], T | None],
        scope: Scope,
        lists: asyncio.Semaphore,
    ) -> None:
        """`lists` bounds how many such watches list at once."""
        self._client = client
        self._kind = kind
        self._decode = decode
        self._scope = scope
        self._lists = lists
        self.what = kind.plural + (f" in namespace {scope.namespace}" if scope.namespace else "")
        """That it watches, for people."""
        self._rng = random.Random()  # noqa: S311 - jitter only
        self._objects: _Objects[T] = {}
        self._written: list[Object] | None = None
        self._failures = 0
        self._heard = False
        self._relists: list[asyncio.Future[None]] = []
        self._ask = asyncio.Event()
        self._lost = asyncio.Event()
        self._handlers: list[EventHandler[T]] = []
        self._complaints: list[float] = []
        self._last_error = ""
        self.on_unreadable: Unreadable = lambda kind, body, why: None
        """Is called with the objects that are ignored and logged."""
        self.on_lost: Lost = lambda kind: None
        """Is called each time when the watch is lost and will be begun again."""
        self.synced = False
        """Whether the watch is there, so that what is here is as it is in the API server."""
        self.problem = "the API server has not answered yet"
        """Why it is not fresh."""
        self.forbidden = False
        """Whether that is a lack of rights."""
        self.rejected = False
        """Whether that is an answer to what was asked, 403 or 404, and no trouble that passes by itself."""

    def add_event_handler(self, handler: EventHandler[T]) -> None:
        """Call a handler with every change from now on."""
        self._handlers.append(handler)

    def get(self, name: str, namespace: str = "") -> T | None:
        """Return an object; None when it is not here."""
        kept = self._objects.get(namespace, {}).get(name)
        return None if kept is None else kept.value

    def all(self, namespace: str = "") -> list[T]:
        """Return the objects of a namespace, those without one by default."""
        return [kept.value for kept in self._objects.get(namespace, {}).values()]

    def object_keys(self) -> list[tuple[str, str]]:
        """Return namespace and name of every object."""
        return [(namespace, name) for namespace, objects in self._objects.items() for name in objects]

    def namespaces(self) -> list[str]:
        """Return the namespaces that have any."""
        return list(self._objects)

    def observe_write(self, body: Object) -> None:
        """Take in what the API server answered to a write, before the watch tells of it.

        Handlers are called: what was written is not all that may have changed, and the watch's own event will be known.
        """
        if self._written is not None:
            self._written.append(body)
        self._take(body)

    def _take(self, body: Object) -> None:
        metadata = body["metadata"]
        kept = self._objects.get(metadata.get("namespace", ""), {}).get(metadata["name"])
        if kept is not None and kept.uid == metadata["uid"]:
            self._put(body)

    async def relist(self) -> None:
        """List everything again at once, and wait for that; `run` does it, so that no event falls in between."""
        done = asyncio.get_running_loop().create_future()
        self._relists.append(done)
        self._ask.set()
        await done

    async def try_relist(self) -> None:
        """List everything again at once, and wait until that is done or failed: then it is not fresh."""
        self._lost.clear()
        ends = [asyncio.create_task(self.relist()), asyncio.create_task(self._lost.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    def retry_now(self) -> None:
        """Have a watch that is lost not wait any longer before it tries again."""
        if not self.synced:
            self._ask.set()

    async def run(self) -> None:
        """Keep them until cancelled."""
        while True:
            self._ask.clear()
            error = await self._kept_until_lost(len(self._relists))
            if error is not None and not self._ask.is_set():
                await self._rest(error)

    async def _kept_until_lost(self, waiting: int) -> Exception | None:
        """List and watch until that fails or a listing is asked for; return the failure, and none for the latter."""
        try:
            version = await self._until_asked(self._list())
            if version is None:
                return None
            for done in self._relists[:waiting]:
                if not done.done():
                    done.set_result(None)
            del self._relists[:waiting]
            if not version:
                raise ApiError(0, "the list has no version to watch from")
            while version:
                version = await self._watched(version)
        except ApiError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the outermost place: a watch that ended would stop everything
            log.error("watch of %s failed: %s: %s", self.what, type(error).__name__, error)
            return error
        return None

    async def _watched(self, version: str) -> str:
        """Watch until the API server ends it; return where to go on, empty to list again.

        Raises:
            ApiError: the watch failed, or ends as soon as it begins.

        """
        begun, self._heard = time.monotonic(), False
        after: str | None = ""
        try:
            after = await self._until_asked(self._follow(version))
        finally:
            lasted = time.monotonic() - begun
            healthy = bool(after) and (self._heard or lasted >= HEALTHY_SECONDS)
            if healthy or lasted >= LONGEST_PAUSE:
                self._failures = 0
        if after is None:
            return ""
        if not after and lasted < LONGEST_PAUSE:
            raise ApiError(GONE, "the list is too old to watch from")
        if after and not healthy:
            self._failures += 1
            if self._failures > MOST_RESUMED:
                raise ApiError(0, "the API server ends each watch at once")
            await self._sleep(self._pause())
        return "" if self._ask.is_set() else after

    async def _rest(self, error: Exception) -> None:
        """Wait after a failure; until a listing is asked for, at the longest."""
        self._failures += 1
        self.on_lost(self._kind)
        pause, message = self._pause(), str(error)
        self.synced, self.problem = False, message
        status = error.status if isinstance(error, ApiError) else 0
        self.forbidden, self.rejected = status == 403, status in (403, 404)
        self._lost.set()
        level = logging.DEBUG if message == self._last_error else logging.WARNING
        log.log(level, "watch of %s lost, retrying in %.1f s: %s", self.what, pause, message)
        self._last_error = message
        await self._sleep(pause)

    def _pause(self) -> float:
        return with_jitter(exponential(FIRST_PAUSE, LONGEST_PAUSE, self._failures), self._rng.random())

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ask.wait()
        except TimeoutError:
            pass

    async def _list(self) -> str:
        """List everything, tell what is another than before, and return where a watch goes on.

        From when what was listed counts, nothing is waited for: given up in between, listeners would miss some of it.
        """
        written: list[Object] = []
        self._written = written
        try:
            async with self._lists:
                found, version = await self._listed()
        finally:
            self._written = None
        before, self._objects = self._objects, found
        if self._last_error:
            log.info("watch of %s is back", self.what)
        self.synced, self._last_error = True, ""
        for namespace in before.keys() | found.keys():
            previous, current = before.get(namespace, {}), found.get(namespace, {})
            for name in previous.keys() | current.keys():
                self._notify(namespace, previous.get(name), current.get(name))
        for body in written:
            self._take(body)  # written while the list was read, which may have what was before
        return version

    async def _listed(self) -> tuple[_Objects[T], str]:
        found: _Objects[T] = {}
        version = ""
        begun = time.perf_counter()
        async with aclosing(self._client.pages(self._kind, self._scope)) as pages:
            async for items, page_version in pages:
                for item in items:
                    self._keep(found, item)
                    if time.perf_counter() - begun > SLICE_SECONDS:
                        await asyncio.sleep(0)
                        begun = time.perf_counter()
                version = page_version
        return found, version

    async def _until_asked(self, work: Coroutine[Any, Any, str]) -> str | None:
        """Do some work unless a listing is asked for meanwhile; return what it returned, None when it was given up."""
        working = asyncio.create_task(work, name=f"watch {self._kind.plural}")
        asking = asyncio.create_task(self._ask.wait())
        try:
            await asyncio.wait((working, asking), return_when=asyncio.FIRST_COMPLETED)
            return None if self._ask.is_set() else working.result()
        finally:
            asking.cancel()
            working.cancel()
            await asyncio.gather(asking, working, return_exceptions=True)

    async def _follow(self, version: str) -> str:
        """Watch until the API server ends it; return where to go on, empty when that is too long ago."""
        async with aclosing(self._client.watch(self._kind, version, self._scope)) as events:
            async for event in events:
                type_, body = event["type"], event["object"]
                if type_ == "ERROR":
                    if body.get("code") == GONE:
                        return ""
                    raise ApiError(_number(body.get("code")), str(body.get("message")))
                version = body["metadata"]["resourceVersion"]
                self._heard = True
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
        self._notify(namespace, kept, self._objects.get(namespace, {}).get(name))

    def _drop(self, body: Object) -> None:
        metadata = body["metadata"]
        namespace = metadata.get("namespace", "")
        kept = self._objects.get(namespace, {}).get(metadata["name"])
        if kept is not None and not _older(metadata["resourceVersion"], kept.version):
            self._forget(self._objects, namespace, metadata["name"])
            self._notify(namespace, kept, None)

    def _keep(self, objects: _Objects[T], body: Object) -> None:
        metadata = body["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        decoded = self._decoded(body)
        if decoded is None:
            self._forget(objects, namespace, name)
        else:
            kept = _Kept(metadata["uid"], metadata["resourceVersion"], decoded)
            objects.setdefault(namespace, {})[name] = kept

    def _decoded(self, body: Object) -> T | None:
        """Decode an object; None also for one that cannot be, whatever its owner wrote into it."""
        try:
            if isinstance(body, TooDeep):
                raise ValueError("it is nested too deeply")
            return self._decode(body)
        except Exception as error:  # noqa: BLE001 - an object of one user never stops what is done for the others
            self._complain(body, f"{type(error).__name__}: {error}"[:500])
            return None

    def _complain(self, body: Object, why: str) -> None:
        now = time.monotonic()
        self._complaints = [when for when in self._complaints if when > now - COMPLAINT_SECONDS]
        if len(self._complaints) >= COMPLAINTS:
            return
        self._complaints.append(now)
        metadata = body["metadata"]
        name = f"{metadata.get('namespace', '')}/{metadata['name']}"
        log.error("%s %s ignored: it cannot be read: %s", self._kind.kind, name, why)
        self.on_unreadable(self._kind, body, why)

    @staticmethod
    def _forget(objects: _Objects[T], namespace: str, name: str) -> None:
        of_namespace = objects.get(namespace, {})
        if of_namespace.pop(name, None) is not None and not of_namespace:
            del objects[namespace]

    def _notify(self, namespace: str, before: _Kept[T] | None, after: _Kept[T] | None) -> None:
        previous = None if before is None else before.value
        current = None if after is None else after.value
        if previous != current:
            for handler in self._handlers:
                try:
                    handler(namespace, previous, current)
                except Exception:  # what one listener makes of an object is not another one's trouble
                    log.exception("a change of %s in %r was not processed", self._kind.plural, namespace)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _older(version: str, than: str) -> bool:
    """Whether a resourceVersion is of an earlier time. Kubernetes counts them, and says so in writing since 1.35."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)

"""Informer: a cache of the objects of one resource, decoded and kept current by watches, with event handlers.

One for a resource and scope in the process, shared by all who read it; it runs in every replica, so that a standby is
warm. An operator of some namespaces (`watchNamespaces`) may not watch all at once: then each namespace has a
`reflector` of its own, which is lost, rests and comes back by itself. Callers check `synced_in` the namespace that they
read, or `synced` when they read all. After a write, pass the API server's answer to `observe_write`; on becoming
leader, await `relist()`. Both avoid acting on stale data.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from patio_kube.client import EVERYTHING, KubeClient, Object, Scope
from patio_kube.reflector import EventHandler, Lost, Reflector, Unreadable
from patio_kube.resources import Resource

LISTED_AT_ONCE = 8
"""Namespaces of which objects of a kind are listed at once: at the start all are."""

T = TypeVar("T")


class Informer(Generic[T]):
    """The objects of one kind and scope; `run` keeps them."""

    def __init__(
        self,
        client: KubeClient,
        kind: Resource,
        decode: Callable[[Object], T | None],
        scope: Scope = EVERYTHING,
        namespaces: Iterable[str] = (),
    ) -> None:
        """Take what is watched, and how it is decoded.

        Args:
            client: by which they are listed and watched.
            kind: of the objects.
            decode: returns what to keep of an object, comparable, and None for one that is of no interest.
            scope: which of the objects.
            namespaces: that are watched, each by itself, where the scope is all namespaces; none: all by one watch.

        """
        apart = namespaces if kind.namespaced and scope.namespace is None else ()
        scopes = [replace(scope, namespace=namespace) for namespace in apart] or [scope]
        lists = asyncio.Semaphore(LISTED_AT_ONCE)
        self._watches = {scope.namespace: Reflector(client, kind, decode, scope, lists) for scope in scopes}
        for watch in self._watches.values():
            watch.on_unreadable = self._note_unreadable
            watch.on_lost = self._note_lost
        self.kind = kind
        """Whose objects are watched."""
        self.on_lost: Lost = lambda kind: None
        """Is called each time when a watch is lost and will be begun again."""
        self.on_unreadable: Unreadable = lambda kind, body, why: None
        """Is called with the objects that are ignored and logged."""

    def add_event_handler(self, handler: EventHandler[T]) -> None:
        """Call a handler with every change from now on."""
        for watch in self._watches.values():
            watch.add_event_handler(handler)

    def get(self, name: str, namespace: str = "") -> T | None:
        """Return an object; None when it is not here."""
        watch = self._of(namespace)
        return None if watch is None else watch.get(name, namespace)

    def all(self, namespace: str = "") -> list[T]:
        """Return the objects of a namespace, those without one by default."""
        watch = self._of(namespace)
        return [] if watch is None else watch.all(namespace)

    def object_keys(self) -> list[tuple[str, str]]:
        """Return namespace and name of every object."""
        return [place for watch in self._watches.values() for place in watch.object_keys()]

    def namespaces(self) -> list[str]:
        """Return the namespaces that have any."""
        return [namespace for watch in self._watches.values() for namespace in watch.namespaces()]

    def observe_write(self, body: Object) -> None:
        """Take in what the API server answered to a write, before the watch tells of it.

        Handlers are called: what was written is not all that may have changed, and the watch's own event will be known.
        """
        watch = self._of(body["metadata"].get("namespace", ""))
        if watch is not None:
            watch.observe_write(body)

    @property
    def synced(self) -> bool:
        """Whether what is here is as it is in the API server, apart from namespaces that cannot be watched.

        A namespace that was deleted, or in which the operator has no rights any more, holds up no other one.
        """
        watches = self._watches.values()
        return any(watch.synced for watch in watches) and all(watch.synced or watch.rejected for watch in watches)

    def synced_in(self, namespace: str) -> bool:
        """Return whether what is here of a namespace is as it is in the API server; nothing is of one not watched."""
        watch = self._of(namespace)
        return watch is None or watch.synced

    def problem_in(self, namespace: str) -> str:
        """Return why a namespace is not fresh."""
        watch = self._of(namespace)
        return "" if watch is None else watch.problem

    def forbidden_in(self, namespace: str) -> bool:
        """Return whether a namespace is not fresh for a lack of rights."""
        watch = self._of(namespace)
        return watch is not None and not watch.synced and watch.forbidden

    async def relist(self) -> None:
        """List everything again at once, and wait for that.

        Of several namespaces, one that cannot be listed is not waited for: it is not fresh then.
        """
        if len(self._watches) == 1:
            await next(iter(self._watches.values())).relist()
        else:
            await asyncio.gather(*(watch.try_relist() for watch in self._watches.values()))

    def retry_now(self) -> None:
        """Have no watch that is lost wait any longer before it tries again."""
        for watch in self._watches.values():
            watch.retry_now()

    async def run(self) -> None:
        """Keep them until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watches.values():
                tasks.create_task(watch.run(), name=f"watch of {watch.what}")

    def _of(self, namespace: str) -> Reflector[T] | None:
        return self._watches.get(None) or self._watches.get(namespace)

    def _note_unreadable(self, kind: Resource, body: Object, why: str) -> None:
        self.on_unreadable(kind, body, why)

    def _note_lost(self, kind: Resource) -> None:
        self.on_lost(kind)

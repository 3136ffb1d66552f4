"""Watches the Kubernetes API, and publishes a snapshot whenever what is known is another one.

Informers keep what `cached_objects` and `key_secrets` leave of objects; `assembly` makes the snapshot. Nothing is
published before every informer has listed its objects, and nothing is asked of the API for a request. While the API
server is away, what is known stays. Decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from patio_api.endpoint_labels import ENDPOINT, GATEWAY_MANAGER, TAKES_REQUESTS
from patio_gateway.snapshot import Client, Snapshot
from patio_gateway.sources.kubernetes.assembly import NameTaken, assemble
from patio_gateway.sources.kubernetes.cached_objects import decode_adapter, decode_endpoint, decode_pod
from patio_gateway.sources.kubernetes.key_secrets import Clients, clients_of, decode_key_secret
from patio_gateway.sources.kubernetes.options import KEYS_LABEL, NoClusterError
from patio_kube.client import ApiError, KubeClient, Scope
from patio_kube.informer import Informer
from patio_kube.pending_events import PendingEvents
from patio_kube.resources import LORA_ADAPTER, MODEL_ENDPOINT, POD, SECRET
from patio_kube.unreadable_objects import UnreadableObjects

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.05
"""Between two looks whether the informers have listed everything."""

LATE_SECONDS: Final = 10.0
"""After which the log says which informers have not, and again after as long."""

PAUSE_SECONDS: Final = 0.02
"""Between two snapshots: changes that come together are one."""

MOST_SAID: Final = 10
"""Lines of the log about names, of one snapshot."""

KINDS: Final = {kind.kind: kind for kind in (MODEL_ENDPOINT, LORA_ADAPTER)}

T = TypeVar("T")


class KubernetesSource:
    """Informers, and the snapshots that are made of them."""

    def __init__(
        self, client: KubeClient, writer: KubeClient, namespaces: Sequence[str], keys_namespace: str | None
    ) -> None:
        """Make the informers.

        Args:
            client: by which they list and watch.
            writer: by which events are recorded.
            namespaces: whose models are served; none: of all.
            keys_namespace: where Secrets with keys are; None: no request needs a key.

        """
        self._endpoints = Informer(client, MODEL_ENDPOINT, decode_endpoint, namespaces=namespaces)
        self._adapters = Informer(client, LORA_ADAPTER, decode_adapter, namespaces=namespaces)
        workers = Scope(labels=f"{ENDPOINT},{TAKES_REQUESTS}=true")
        self._pods = Informer(client, POD, decode_pod, workers, namespaces)
        self._secrets = (
            Informer(client, SECRET, decode_key_secret, Scope(keys_namespace, KEYS_LABEL))
            if keys_namespace is not None
            else None
        )
        self._events = PendingEvents(writer)
        self._changed = asyncio.Event()
        self._taken: frozenset[NameTaken] = frozenset()
        self._keys = Clients()
        unreadable = UnreadableObjects(self._events, "gateway")
        for informer in self._informers:
            informer.add_event_handler(lambda namespace, before, after: self._changed.set())
            informer.on_unreadable = unreadable.note

    @property
    def _informers(self) -> tuple[Informer[Any], ...]:
        always = (self._endpoints, self._adapters, self._pods)
        return always if self._secrets is None else (*always, self._secrets)

    async def run(self, publish: Callable[[Snapshot], Awaitable[None]]) -> None:
        """Publish what is known: first when everything was listed, then at each change. It never returns."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.run(), name=f"informer of {informer.kind.plural}")
            group.create_task(self._events.run(), name="events")
            await self._listed()
            last = None
            while True:
                self._changed.clear()
                snapshot = self._snapshot()
                if snapshot != last:
                    last = snapshot
                    await publish(snapshot)
                await asyncio.sleep(PAUSE_SECONDS)
                await self._changed.wait()

    async def _listed(self) -> None:
        """Wait until every informer has listed its objects once; say which ones are late."""
        loop = asyncio.get_running_loop()
        logged_at = loop.time()
        while missing := [informer for informer in self._informers if not informer.synced]:
            if loop.time() - logged_at > LATE_SECONDS:
                logged_at = loop.time()
                for informer in missing:
                    log.warning("informer_late kind=%s", informer.kind.kind)
            await asyncio.sleep(LOOK_SECONDS)
        log.info("informers_synced")

    def _snapshot(self) -> Snapshot:
        found = assemble(_all(self._endpoints), _all(self._adapters), _all(self._pods), self._clients())
        self._report_taken(frozenset(found.taken))
        return found.snapshot

    def _clients(self) -> tuple[Client, ...] | None:
        if self._secrets is None:
            return None
        before, self._keys = self._keys, clients_of(_all(self._secrets), self._keys.readable)
        if self._keys.problems != before.problems:
            for problem in self._keys.problems[:MOST_SAID]:
                log.error("keys_left_out reason=%s", json.dumps(problem))
        if self._keys.clients != before.clients:
            log.info("keys_read clients=%d", len(self._keys.clients))
        return self._keys.clients

    def _report_taken(self, taken: frozenset[NameTaken]) -> None:
        new, self._taken = sorted(taken - self._taken), taken
        for each in new[:MOST_SAID]:
            log.warning(
                "name_taken kind=%s object=%s/%s name=%s holder=%s",
                *(each.kind, each.namespace, each.object_name, json.dumps(each.name), json.dumps(each.holder)),
            )
        if len(new) > MOST_SAID:
            log.warning("names_taken more=%d", len(new) - MOST_SAID)
        for each in new:
            metadata = {"name": each.object_name, "namespace": each.namespace, "uid": each.uid}
            self._events.note(KINDS[each.kind], metadata, "NameTaken", str(each))


def _all(informer: Informer[T]) -> Iterable[T]:
    return (each for namespace in informer.namespaces() for each in informer.all(namespace))


@asynccontextmanager
async def connected(namespaces: Sequence[str], keys_namespace: str | None) -> AsyncIterator[KubernetesSource]:
    """Return the source, for the arguments of `KubernetesSource`.

    Raises:
        NoClusterError: it is not known where the API server is.

    """
    try:
        client = await KubeClient.connect(GATEWAY_MANAGER)
        writer = await KubeClient.connect(GATEWAY_MANAGER, connections=2)
    except ApiError as error:
        raise NoClusterError(error.message) from error
    try:
        yield KubernetesSource(client, writer, namespaces, keys_namespace)
    finally:
        await client.close()
        await writer.close()

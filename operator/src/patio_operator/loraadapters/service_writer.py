"""Keeps the Services of LoraAdapters with `spec.service`: made, put right, deleted when they are no longer asked for.

What is ours is known from a watch, so a pass costs nothing when all is well. Before one is made, the API server itself
says whether the name is free; another owner's Service is looked at again from time to time, and never changed. What is
wrong becomes part of the LoraAdapter's status, which tells users.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from patio_api.owners import controller_uid
from patio_kube.client import ConflictError, InvalidError, KubeClient, NotFoundError, Object
from patio_kube.informer import Informer
from patio_kube.resources import SERVICE
from patio_operator.loraadapters.caches import CachedAdapter
from patio_operator.loraadapters.planner.plan import Condition
from patio_operator.loraadapters.planner.selection import is_deleting
from patio_operator.loraadapters.planner.services import (
    CachedService,
    engine_port,
    invalid_name,
    is_as_wanted,
    name_taken,
    service_of,
    waits_for_labels,
)
from patio_operator.pods.injected_pod import CachedPod

log = logging.getLogger(__name__)

LOOK_AGAIN = 30.0
"""Seconds after which a name that was taken is tried again."""


class ServiceWriter:
    """Writes Services."""

    def __init__(self, client: KubeClient, services: Informer[CachedService], clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._client = client
        self._services = services
        self._clock = clock
        self._conditions: dict[str, tuple[Condition, float]] = {}

    async def write(self, cached: CachedAdapter, pods: Iterable[CachedPod]) -> Condition | None:
        """Make a LoraAdapter's Service be as it should; return why it is not.

        Args:
            cached: the LoraAdapter.
            pods: those that have it, or should; only looked at where there is to be a Service.

        """
        adapter = cached.adapter
        metadata = adapter.metadata
        if adapter.spec.service and not self._services.synced_in(metadata.namespace):
            return Condition(
                "ServiceUnknown", f"The operator cannot watch Services: {self._services.problem_in(metadata.namespace)}"
            )
        existing = self._services.get(metadata.name, metadata.namespace)
        if existing is not None and existing.owner != metadata.uid:
            existing = None
        if is_deleting(adapter):  # its Service goes with it
            return None
        if not adapter.spec.service:
            self._conditions.pop(metadata.uid, None)
            if existing is not None:
                await self._delete(existing)
            return None
        pods = list(pods)
        port = engine_port(pod.engine_port for pod in pods)
        if port is None:  # no pod to send a request to
            return None
        if existing is not None and waits_for_labels(existing, adapter, (pod.pod for pod in pods)):
            return None
        wanted = service_of(adapter, port)
        if existing is not None and is_as_wanted(existing, wanted):
            self._conditions.pop(metadata.uid, None)
            return None
        before, until = self._conditions.get(metadata.uid, (None, 0.0))
        if before is not None and self._clock() < until:
            return before
        condition = invalid_name(adapter)
        if condition is None:
            condition = await self._write(wanted, existing)
        if condition is None:
            self._conditions.pop(metadata.uid, None)
            return None
        self._conditions[metadata.uid] = condition, self._clock() + LOOK_AGAIN
        return condition

    def requeue_after(self, cached: CachedAdapter) -> float | None:
        """Return after how many seconds to look at a LoraAdapter's Service again though nothing changed."""
        condition = self._conditions.get(cached.adapter.metadata.uid)
        return None if condition is None else max(0.0, condition[1] - self._clock())

    def forget(self, uid: str) -> None:
        """Forget a LoraAdapter that is gone."""
        self._conditions.pop(uid, None)

    async def _delete(self, existing: CachedService) -> None:
        try:
            await self._client.delete(SERVICE, existing.name, existing.namespace, existing.uid)
        except ConflictError:
            return  # another one has the name by now
        log.info("service %s/%s deleted: spec.service is false", existing.namespace, existing.name)

    async def _write(self, wanted: Object, existing: CachedService | None) -> Condition | None:
        metadata = wanted["metadata"]
        name, namespace = metadata["name"], metadata["namespace"]
        try:
            if existing is None:
                await self._client.create(SERVICE, wanted, namespace)
            else:
                # Merged, not applied: what others added to selector or ports would lead requests astray.
                selector = dict.fromkeys(existing.selector) | wanted["spec"]["selector"]
                patch = {"metadata": metadata | {"uid": existing.uid}, "spec": wanted["spec"] | {"selector": selector}}
                self._services.observe_write(await self._client.merge(SERVICE, name, namespace, patch))
        except ConflictError:
            # There is one already. Ours, if the watch lags behind: its event comes.
            return await self._whose(name, namespace, metadata["ownerReferences"][0]["uid"])
        except NotFoundError:
            return None  # deleted a moment ago: its event brings the next pass
        except InvalidError as error:
            return Condition("ServiceRejected", f"The API server rejects the Service: {error.message}")
        log.info("service %s/%s written", namespace, name)
        return None

    async def _whose(self, name: str, namespace: str, owner: str) -> Condition | None:
        try:
            existing = await self._client.get(SERVICE, name, namespace)
        except NotFoundError:
            return None
        return None if controller_uid(existing["metadata"]) == owner else name_taken(name)

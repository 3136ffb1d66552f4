"""Keeps the LoRA adapters of a namespace loaded where their LoraAdapter objects say.

One pass: follow the injected pods' sidecars, take a snapshot of the caches and of what the sidecars report, plan
(`planner`), have the plan's actions carried out (orders and labels in the background), write the statuses that changed.
A change of a pod, a LoraAdapter, a Service, a Secret or a sidecar's report brings the next pass. What is kept between
passes are pauses: losing it costs a repetition that is harmless.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from patio_api.loraadapter import UNLOAD_FINALIZER, LoraAdapter
from patio_kube import events
from patio_kube.client import ApiError, ConflictError, KubeClient, NotFoundError
from patio_kube.informer import Informer
from patio_kube.resources import LORA_ADAPTER
from patio_kube.runtime.incremental import in_chunks
from patio_kube.runtime.time_slices import Heap, in_slices
from patio_kube.runtime.workqueue import Key
from patio_operator.loraadapters.caches import CachedAdapter
from patio_operator.loraadapters.dispatcher import Dispatcher
from patio_operator.loraadapters.label_writer import LabelWriter
from patio_operator.loraadapters.planner.plan import (
    AddFinalizer,
    Condition,
    InstanceState,
    Load,
    Placement,
    RemoveFinalizer,
    SetServingLabels,
    Unload,
)
from patio_operator.loraadapters.planner.planner import plan_incrementally
from patio_operator.loraadapters.planner.selection import is_deleting
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_operator.loraadapters.planner.status import status
from patio_operator.loraadapters.secret_reader import SecretReader
from patio_operator.loraadapters.service_writer import ServiceWriter
from patio_operator.loraadapters.sidecar_watch import SidecarWatch
from patio_operator.loraadapters.status_writer import StatusWriter
from patio_operator.loraadapters.write_backoff import WriteBackoff
from patio_operator.pods.injected_pod import CachedPod

log = logging.getLogger(__name__)

NOT_FRESH_PAUSE = 0.5
"""Seconds after which to look again while a watch of the namespace is lost."""
FIRST_POLL_SECONDS = 2.0
"""How long the first pass over a namespace waits for its sidecars: one that does not know yet who has what would tell
of pods that lost their adapters."""
REST = 4.0
"""How long a namespace rests after it was planned, in times of how long that took: a thousand pods that report one
after the other are some plans a second, and admissions and long-polls get most of the time."""
WRITES_AT_ONCE = 8

FINALIZER, SERVICE, STATUS = "finalizer", "service", "status"
"""What is written of a LoraAdapter; each may be rejected by itself."""

T = TypeVar("T")


class AdapterReconciler:
    """Works off namespaces: `reconcile((namespace,))`, between `begin` and `end` of this replica's leading."""

    def __init__(
        self,
        client: KubeClient,
        pods: Informer[CachedPod],
        adapters: Informer[CachedAdapter],
        secrets: SecretReader,
        watch: SidecarWatch,
        dispatcher: Dispatcher,
        labels: LabelWriter,
        services: ServiceWriter,
        statuses: StatusWriter,
        now: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        """`clock` counts seconds."""
        self._client = client
        self._pods = pods
        self._adapters = adapters
        self._secrets = secrets
        self._watch = watch
        self._dispatcher = dispatcher
        self._labels = labels
        self._services = services
        self._statuses = statuses
        self._now = now
        self._clock = clock
        self._resting: dict[str, float] = {}
        self._polled: set[str] = set()
        self._failures = WriteBackoff(clock, random.Random())  # noqa: S311 - jitter only
        self._deleted_at: dict[str, datetime] = {}
        self._computing = asyncio.Lock()
        self._heap = Heap()
        adapters.add_event_handler(self._forget)

    async def begin(self) -> None:
        """Take in what the last leader wrote."""
        await asyncio.gather(self._pods.relist(), self._adapters.relist())

    async def end(self) -> None:
        """Stop orders, patches and polls, and forget what is of this term."""
        await self._dispatcher.close()
        await self._labels.close()
        await self._watch.close()
        self._polled.clear()
        self._resting.clear()

    def __len__(self) -> int:
        """Return of how many namespaces, and of how many deleted LoraAdapters, something is kept."""
        return len(self._polled | self._resting.keys()) + len(self._deleted_at)

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over a namespace; return after how many seconds to look again, if it matters."""
        (namespace,) = key
        if not (self._pods.synced_in(namespace) and self._adapters.synced_in(namespace)):
            return NOT_FRESH_PAUSE
        rest = self._resting.get(namespace, 0.0) - self._clock()
        if rest > 0:
            return rest
        pods = {cached.pod.uid: cached for cached in self._pods.all(namespace)}
        of_pods = [cached.pod for cached in pods.values()]
        if not pods and not self._adapters.all(namespace):
            self._watch.follow(namespace, ())
            self._dispatcher.rejections(namespace, ())
            self._labels.unlabelled(namespace, ())
            self._polled.discard(namespace)
            self._resting.pop(namespace, None)
            return None
        while self._watch.follow(namespace, of_pods):  # noqa: ASYNC110 - a turn for others, not a wait
            await asyncio.sleep(0)
        if namespace not in self._polled:
            await self._watch.first_answers(namespace, FIRST_POLL_SECONDS)
            self._polled.add(namespace)
            return 0.0  # what is known of the cluster may be another by now
        adapters = {cached.adapter.metadata.name: cached for cached in self._adapters.all(namespace)}
        snapshot = await self._snapshot(namespace, pods, [cached.adapter for cached in adapters.values()])
        reports = sum(
            len(observation.answer.adapters)
            for observation in snapshot.observations.values()
            if observation.answer is not None
        )
        with self._heap.quiet(reports + sum(len(cached.status.instances) for cached in adapters.values())):
            requeue_after = await self._carry_out(namespace, snapshot, adapters, pods)
        return max(0.0, min(requeue_after)) if requeue_after else None

    async def _snapshot(
        self, namespace: str, pods: Mapping[str, CachedPod], adapters: Sequence[LoraAdapter]
    ) -> Snapshot:
        """Take what a plan is made from, all of it at one moment but for the Secrets."""
        credentials = await self._secrets.credentials(adapters)
        now = self._now()
        for adapter in adapters:
            if is_deleting(adapter) and self._exists(adapter):  # else `_forget` was called with it already
                self._deleted_at.setdefault(adapter.metadata.uid, now)
        return Snapshot(
            [cached.pod for cached in pods.values()],
            self._watch.seen(namespace),
            adapters,
            now,
            credentials=credentials,
            rejections=self._dispatcher.rejections(namespace, pods),
            unlabelled_at=self._labels.unlabelled(namespace, pods),
            deleted_at=dict(self._deleted_at),
        )

    async def _carry_out(
        self,
        namespace: str,
        snapshot: Snapshot,
        adapters: Mapping[str, CachedAdapter],
        pods: Mapping[str, CachedPod],
    ) -> list[float]:
        """Make the plan and do what it says; return after how many seconds there may be more to do."""
        decided, spent = await in_slices(plan_incrementally(snapshot))
        now = snapshot.now
        self._resting[namespace] = self._clock() + REST * spent
        # Before the first load, so that no adapter is left behind by an object that was deleted meanwhile.
        without_finalizer = [action.adapter for action in decided.actions if isinstance(action, AddFinalizer)]
        held = await _some_at_once([partial(self._add_finalizer, adapter) for adapter in without_finalizer])
        unheld = {adapter.metadata.name for adapter, done in zip(without_finalizer, held, strict=True) if not done}
        requeue_times = [decided.requeue_at]
        for part in in_chunks(decided.actions):
            orders = [action for action in part if isinstance(action, Load | Unload)]
            may = [order for order in orders if isinstance(order, Unload) or order.adapter not in unheld]
            requeue_times.append(self._dispatcher.dispatch(may, snapshot.observations))
            self._labels.apply(action for action in part if isinstance(action, SetServingLabels))
            await asyncio.sleep(0)
        requeue_after = [(at - now).total_seconds() for at in requeue_times if at is not None]
        released = [action for action in decided.actions if isinstance(action, RemoveFinalizer)]
        placements = dict(decided.placements)
        del decided  # actions are dropped one by one: to free a hundred thousand at once takes its time
        return requeue_after + await self._write(released, placements, adapters, pods, now)

    async def _write(
        self,
        released: Sequence[RemoveFinalizer],
        placements: dict[str, Placement],
        adapters: Mapping[str, CachedAdapter],
        pods: Mapping[str, CachedPod],
        now: datetime,
    ) -> list[float]:
        """Write what belongs into the API server; return after how many seconds there may be more to write."""

        def work() -> Iterator[Callable[[], Awaitable[list[float]]]]:
            for release in released:
                yield partial(self._remove_finalizer, adapters[release.adapter.metadata.name], release, now)
            for name in list(placements):
                yield partial(self._write_service_and_status, adapters[name], placements.pop(name), pods, now)

        return [delay for delays in await _some_at_once(work()) for delay in delays]

    async def _write_service_and_status(
        self, cached: CachedAdapter, placement: Placement, pods: Mapping[str, CachedPod], now: datetime
    ) -> list[float]:
        """Write a LoraAdapter's Service and status."""
        uid = cached.adapter.metadata.uid
        pods_with_it = (pods[instance.pod.uid] for instance in placement.instances if instance.pod.uid in pods)
        condition, requeue_after = await self._write_service(cached, pods_with_it)
        message = self._failures.message(uid, FINALIZER)
        if message is not None:
            placement = replace(placement, condition=Condition("FinalizerRejected", _no_finalizer(message)))
        elif condition is not None and placement.condition is None and _is_loaded(placement):
            placement = replace(placement, condition=condition)
        requeue_after.append(self._failures.wait(uid, FINALIZER))
        requeue_after += await self._write_status(cached, placement, now)
        return [wait for wait in requeue_after if wait > 0]

    async def _write_service(
        self, cached: CachedAdapter, pods: Iterable[CachedPod]
    ) -> tuple[Condition | None, list[float]]:
        uid = cached.adapter.metadata.uid
        condition: Condition | None = None

        async def write() -> None:
            nonlocal condition
            condition = await self._services.write(cached, pods)

        delays = await self._try(cached.adapter, SERVICE, write)
        message = self._failures.message(uid, SERVICE)
        if message is not None:
            return Condition("ServiceRejected", f"The API server rejects the Service: {message}"), delays
        requeue_after = self._services.requeue_after(cached)
        return condition, delays if requeue_after is None else [requeue_after]

    async def _write_status(self, cached: CachedAdapter, placement: Placement, now: datetime) -> list[float]:
        uid = cached.adapter.metadata.uid
        wait = self._failures.wait(uid, STATUS)
        if wait:
            return [wait]
        async with self._computing:  # one in each turn of the loop: a status of thousands of pods takes milliseconds
            after = status(cached.adapter, placement, cached.status, now)
            await asyncio.sleep(0)
        requeue_after: list[float] = []

        async def write() -> None:
            later = await self._statuses.write(cached, after)
            if later is not None:
                requeue_after.append(later)

        return requeue_after + await self._try(cached.adapter, STATUS, write)

    async def _add_finalizer(self, adapter: LoraAdapter) -> bool:
        """Put the finalizer on a LoraAdapter; return whether it is there."""
        done = False

        async def write() -> None:
            nonlocal done
            done = await self._write_finalizers(adapter, [*adapter.metadata.finalizers, UNLOAD_FINALIZER])

        await self._try(adapter, FINALIZER, write)
        return done

    async def _remove_finalizer(self, cached: CachedAdapter, release: RemoveFinalizer, now: datetime) -> list[float]:
        """Take the finalizer off, and tell of it once that is done; where it may not be, the status says so."""
        adapter = release.adapter

        async def write() -> None:
            kept = [finalizer for finalizer in adapter.metadata.finalizers if finalizer != UNLOAD_FINALIZER]
            if await self._write_finalizers(adapter, kept):
                await self._record_removal(cached.reference, release)

        requeue_after = await self._try(adapter, FINALIZER, write)
        message = self._failures.message(adapter.metadata.uid, FINALIZER)
        if message is not None:
            condition = Condition("FinalizerRejected", f"The deletion cannot finish. {_no_finalizer(message)}")
            requeue_after += await self._write_status(cached, Placement(condition=condition), now)
        return requeue_after

    async def _record_removal(self, about: Mapping[str, Any], release: RemoveFinalizer) -> None:
        if release.left_on:
            whose = "its sidecar" if len(release.left_on) == 1 else "each sidecar"
            message = (
                f"Deleted without confirmation from {', '.join(release.left_on[:5])}; "
                f"the adapter will be unloaded there when {whose} responds."
            )
            await events.record(self._client, about, "Warning", "UnloadNotConfirmed", message)
        else:
            await events.record(self._client, about, "Normal", "Unloaded", "The adapter is unloaded on every pod.")

    async def _write_finalizers(self, adapter: LoraAdapter, finalizers: list[str]) -> bool:
        """Write the finalizers; return False when the object was changed or is gone: its event brings the next pass."""
        metadata = adapter.metadata
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": metadata.resource_version}}
        try:
            body = await self._client.merge(LORA_ADAPTER, metadata.name, metadata.namespace, patch)
        except (ConflictError, NotFoundError):
            return False
        self._adapters.observe_write(body)
        return True

    async def _try(self, adapter: LoraAdapter, what: str, work: Callable[[], Awaitable[None]]) -> list[float]:
        """Write something of one LoraAdapter, unless that failed a moment ago; return when to try again.

        What the API server does not take of one object, by a policy of the cluster for example, is no other's fault.
        """
        metadata = adapter.metadata
        wait = self._failures.wait(metadata.uid, what)
        if wait:
            return [wait]
        try:
            await work()
        except ApiError as error:
            if not self._exists(adapter):
                return []
            wait = self._failures.failed(metadata.uid, what, error.message)
            name = f"{metadata.namespace}/{metadata.name}"
            log.warning("%s of LoraAdapter %s not written, retrying in %.1f s: %s", what, name, wait, error.message)
            return [wait]
        self._failures.worked(metadata.uid, what)
        return []

    def _exists(self, adapter: LoraAdapter) -> bool:
        cached = self._adapters.get(adapter.metadata.name, adapter.metadata.namespace)
        return cached is not None and cached.adapter.metadata.uid == adapter.metadata.uid

    def _forget(self, namespace: str, previous: CachedAdapter | None, current: CachedAdapter | None) -> None:
        if previous is not None and current is None:
            metadata = previous.adapter.metadata
            self._secrets.forget(namespace, metadata.name)
            self._statuses.forget(namespace, metadata.name)
            self._services.forget(metadata.uid)
            self._failures.forget(metadata.uid)
            self._deleted_at.pop(metadata.uid, None)


def _is_loaded(placement: Placement) -> bool:
    return all(instance.state is InstanceState.LOADED for instance in placement.instances)


def _no_finalizer(message: str) -> str:
    return f"The API server rejects a change of metadata.finalizers of this object: {message}"


async def _some_at_once(work: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """Do all, a few at a time; then raise what the first of them raised, or return what they returned, in order."""
    ends: dict[int, T] = {}
    errors: list[Exception] = []
    waiting = iter(enumerate(work))

    async def some() -> None:
        for number, call in waiting:
            try:
                ends[number] = await call()
            except Exception as error:  # noqa: BLE001 - the others go on first
                errors.append(error)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(WRITES_AT_ONCE):
            tasks.create_task(some())
    if errors:
        raise errors[0]
    return [ends[number] for number in sorted(ends)]

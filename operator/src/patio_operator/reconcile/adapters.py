"""Makes the LoraAdapters of a namespace be where they are declared.

One pass: take what the watches know of pods, LoraAdapters and Services, follow the pods' sidecars, let
`placement.planner` decide from what they report, have its actions carried out (orders and labels in the background),
write the statuses that changed. Woken by what changes in any of these, in a Secret, or in a sidecar's report. What is
kept between passes are pauses: losing it costs a repetition that is harmless.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from patio_operator.api.loraadapter import UNLOAD_FINALIZER, LoraAdapter
from patio_operator.cluster import events
from patio_operator.cluster.api import Cluster, ConflictError, NotFoundError
from patio_operator.cluster.kinds import LORA_ADAPTER
from patio_operator.cluster.known import Known, KnownAdapter, KnownPod
from patio_operator.placement.planner import plan
from patio_operator.placement.plans import Hold, Load, Mark, PlacedState, Placement, Plan, Release, Unload
from patio_operator.placement.status import status
from patio_operator.reconcile.credentials import SecretReader
from patio_operator.reconcile.marks import Marks
from patio_operator.reconcile.queue import Key
from patio_operator.reconcile.services import Services
from patio_operator.reconcile.statuses import Statuses
from patio_operator.sidecars.orders import Orders
from patio_operator.sidecars.watch import SidecarWatch

log = logging.getLogger(__name__)

NOT_FRESH_PAUSE = 0.5
"""Seconds after which to look again while a watch is lost."""
FIRST_LOOK_SECONDS = 2.0
"""How long the first pass over a namespace waits for its sidecars: one that does not know yet who has what would tell
of pods that lost their adapters."""
REST = 4.0
"""How long a namespace rests after it was planned, in times of how long that took: a thousand pods that report one
after the other are some plans a second, and admissions and long-polls get most of the time. (In a thread a plan would
be in their way no less: each of their system calls would wait for the interpreter's lock.)"""
WRITES_AT_ONCE = 8


class AdapterReconciler:
    """Works off namespaces: `reconcile((namespace,))`, between `begin` and `end` of this replica's leading."""

    def __init__(
        self,
        cluster: Cluster,
        known: Known,
        secrets: SecretReader,
        watch: SidecarWatch,
        orders: Orders,
        marks: Marks,
        services: Services,
        statuses: Statuses,
        now: Callable[[], datetime],
        clock: Callable[[], float],
    ) -> None:
        """`clock` counts seconds."""
        self._cluster = cluster
        self._known = known
        self._secrets = secrets
        self._watch = watch
        self._orders = orders
        self._marks = marks
        self._services = services
        self._statuses = statuses
        self._now = now
        self._clock = clock
        self._resting: dict[str, float] = {}
        self._looked: set[str] = set()
        known.adapters.listen(self._forget)

    async def begin(self) -> None:
        """Take in what the last leader wrote."""
        await self._known.refresh()

    async def end(self) -> None:
        """Stop what is under way, and forget what is of this term."""
        await self._orders.close()
        await self._marks.close()
        await self._watch.close()
        self._looked.clear()

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over a namespace; return after how many seconds to look again, if it matters."""
        (namespace,) = key
        if not self._known.fresh:
            return NOT_FRESH_PAUSE
        rest = self._resting.get(namespace, 0.0) - self._clock()
        if rest > 0:
            return rest
        pods = {one.pod.uid: one for one in self._known.pods.all(namespace)}
        self._watch.follow(namespace, [one.pod for one in pods.values()])
        if namespace not in self._looked:
            await self._watch.looked(namespace, FIRST_LOOK_SECONDS)
            self._looked.add(namespace)
            return 0.0  # what is known of the cluster may be another by now
        adapters = {one.adapter.metadata.name: one for one in self._known.adapters.all(namespace)}
        credentials = await self._secrets.credentials(one.adapter for one in adapters.values())
        seen, now = self._watch.seen(namespace), self._now()
        started = self._clock()
        decided = plan(
            [one.pod for one in pods.values()],
            seen,
            [one.adapter for one in adapters.values()],
            credentials,
            self._orders.refusals(namespace, pods),
            self._marks.unmarked(namespace, pods),
            now,
        )
        ended = self._clock()
        self._resting[namespace] = ended + REST * (ended - started)
        # Before the first load, so that no adapter is left behind by an object that was deleted meanwhile.
        await _some_at_once(self._hold(one.adapter) for one in decided.actions if isinstance(one, Hold))
        again_at = self._orders.give([one for one in decided.actions if isinstance(one, Load | Unload)], seen)
        self._marks.give(one for one in decided.actions if isinstance(one, Mark))
        again_in = [(at - now).total_seconds() for at in (again_at, decided.again_at) if at is not None]
        again_in += await self._write(decided, adapters, pods, now)
        return max(0.0, min(again_in)) if again_in else None

    async def _write(
        self, decided: Plan, adapters: Mapping[str, KnownAdapter], pods: Mapping[str, KnownPod], now: datetime
    ) -> list[float]:
        """Write what belongs into the API server; return after how many seconds there may be more to write."""
        await _some_at_once(self._release(adapters, one) for one in decided.actions if isinstance(one, Release))
        told = [self._tell(adapters[name], one, pods, now) for name, one in decided.placements.items()]
        return [wait for waits in await _some_at_once(told) for wait in waits]

    async def _tell(
        self, known: KnownAdapter, placement: Placement, pods: Mapping[str, KnownPod], now: datetime
    ) -> list[float]:
        ports = [pods[one.pod.uid].engine_port for one in placement.placed if one.pod.uid in pods]
        trouble = await self._services.keep(known, ports)
        loaded = all(one.state is PlacedState.LOADED for one in placement.placed)
        if trouble is not None and placement.trouble is None and loaded:
            placement = replace(placement, trouble=trouble)
        after = status(known.adapter, placement, known.status, now)
        waits = (await self._statuses.write(known, after), self._services.again_in(known))
        return [wait for wait in waits if wait is not None]

    async def _hold(self, adapter: LoraAdapter) -> None:
        await self._write_finalizers(adapter, [*adapter.metadata.finalizers, UNLOAD_FINALIZER])

    async def _release(self, adapters: Mapping[str, KnownAdapter], release: Release) -> None:
        adapter = release.adapter
        about = adapters[adapter.metadata.name].reference
        if release.left_on:
            message = (
                f"Deleted, though {', '.join(release.left_on[:5])} did not confirm the unload in time. "
                "What is left there is unloaded as soon as the sidecar answers."
            )
            await events.record(self._cluster, about, "Warning", "LeftLoaded", message)
        else:
            await events.record(self._cluster, about, "Normal", "Unloaded", "The adapter is unloaded everywhere.")
        await self._write_finalizers(adapter, [one for one in adapter.metadata.finalizers if one != UNLOAD_FINALIZER])

    async def _write_finalizers(self, adapter: LoraAdapter, finalizers: list[str]) -> None:
        metadata = adapter.metadata
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": metadata.resource_version}}
        # Changed or gone since it was read: its event brings the next pass.
        with suppress(ConflictError, NotFoundError):
            body = await self._cluster.merge(LORA_ADAPTER, metadata.name, metadata.namespace, patch)
            self._known.adapters.took(body)

    def _forget(self, namespace: str, was: KnownAdapter | None, there: KnownAdapter | None) -> None:
        if was is not None and there is None:
            metadata = was.adapter.metadata
            self._secrets.forget(namespace, metadata.name)
            self._statuses.forget(namespace, metadata.name)
            self._services.forget(metadata.uid)


async def _some_at_once(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Await all, a few at a time; then raise what the first of them raised."""
    slots = asyncio.Semaphore(WRITES_AT_ONCE)

    async def one(coroutine: Awaitable[Any]) -> Any:
        async with slots:
            return await coroutine

    ends = await asyncio.gather(*(one(coroutine) for coroutine in work), return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return ends

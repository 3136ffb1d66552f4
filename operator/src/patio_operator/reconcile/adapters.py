"""Makes the LoraAdapters of a namespace be where they are declared.

One pass: read pods and LoraAdapters from the API server, follow the pods' sidecars, let `placement.planner` decide
from what they report, carry its actions out, write the statuses that changed. Woken by any event of either kind and
by any change of a sidecar's report; keeps nothing between passes but the orders that sidecars refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from patio_operator.api import labels
from patio_operator.api.loraadapter import UNLOAD_FINALIZER, LoraAdapter
from patio_operator.cluster import events
from patio_operator.cluster.api import Cluster, ConflictError, NotFoundError, Object
from patio_operator.cluster.kinds import LORA_ADAPTER, POD
from patio_operator.placement.fleet import decode_pod
from patio_operator.placement.planner import plan
from patio_operator.placement.plans import Hold, Load, Order, Placement, Refusal, Release, Unload
from patio_operator.placement.status import events as events_of
from patio_operator.placement.status import status
from patio_operator.reconcile.queue import Key
from patio_operator.sidecars.orders import Orders
from patio_operator.sidecars.watch import SidecarWatch

log = logging.getLogger(__name__)

UNDELIVERED_PAUSE = timedelta(seconds=1)
"""An order that was not delivered is given again after so long, if the sidecar is there."""


class AdapterReconciler:
    """Works off namespaces: `reconcile((namespace,))`."""

    def __init__(self, cluster: Cluster, watch: SidecarWatch, orders: Orders) -> None:
        self._cluster = cluster
        self._watch = watch
        self._orders = orders
        self._refusals: dict[str, dict[tuple[str, Order], Refusal]] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over a namespace; return after how many seconds to look again, if it matters."""
        (namespace,) = key
        pods = [decode_pod(body) for body in await self._cluster.list_all(POD, namespace, f"{labels.INJECTED}=true")]
        bodies = {one["metadata"]["name"]: one for one in await self._cluster.list_all(LORA_ADAPTER, namespace)}
        by_name = {name: one for name, body in bodies.items() if (one := _decode(body)) is not None}
        self._watch.follow(namespace, pods)
        now = datetime.now(UTC)
        refusals = {key: refusal for key, refusal in self._refusals.get(namespace, {}).items() if refusal.until > now}
        decided = plan(pods, self._watch.seen(namespace), list(by_name.values()), {}, refusals, {}, now)
        for action in decided.actions:
            if isinstance(action, Hold):
                await self._hold(bodies[action.adapter.metadata.name])
            elif isinstance(action, Release):
                await self._release(bodies[action.adapter.metadata.name], action.left_on)
        given = await self._orders.give([one for one in decided.actions if isinstance(one, Load | Unload)], now)
        self._refusals[namespace] = {**refusals, **given.refusals}
        for name, placement in decided.placements.items():
            await self._write_status(bodies[name], by_name[name], placement, now)
        times = [refusal.until for refusal in given.refusals.values()]
        if given.undelivered:
            times.append(now + UNDELIVERED_PAUSE)
        if decided.again_at is not None:
            times.append(decided.again_at)
        return max(0.0, (min(times) - now).total_seconds()) if times else None

    async def _hold(self, body: Object) -> None:
        metadata = body["metadata"]
        await self._write_finalizers(body, [*(metadata.get("finalizers") or []), UNLOAD_FINALIZER])

    async def _release(self, body: Object, left_on: tuple[str, ...]) -> None:
        if left_on:
            await events.record(
                self._cluster,
                body,
                "Warning",
                "LeftLoaded",
                f"Deleted, though {', '.join(left_on[:5])} did not confirm the unload in time. "
                "What is left there is unloaded as soon as the sidecar answers.",
            )
        else:
            await events.record(self._cluster, body, "Normal", "Unloaded", "The adapter is unloaded everywhere.")
        kept = [one for one in body["metadata"].get("finalizers") or [] if one != UNLOAD_FINALIZER]
        await self._write_finalizers(body, kept)

    async def _write_finalizers(self, body: Object, finalizers: list[str]) -> None:
        metadata = body["metadata"]
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}}
        try:
            await self._cluster.merge(LORA_ADAPTER, metadata["name"], metadata["namespace"], patch)
        except (ConflictError, NotFoundError):
            # Changed or gone since it was read: its event brings the next pass.
            log.debug("finalizers of %s not written: the object changed", metadata["name"])

    async def _write_status(self, body: Object, adapter: LoraAdapter, placement: Placement, now: datetime) -> None:
        metadata = body["metadata"]
        before: Mapping[str, Any] = body.get("status") or {}
        after = status(adapter, placement, before, now)
        if after == before:
            return
        try:
            await self._cluster.merge(
                LORA_ADAPTER, metadata["name"], metadata["namespace"], {"status": after}, "status"
            )
        except NotFoundError:
            return
        for happened in events_of(before, after):
            await events.record(self._cluster, body, happened.type, happened.reason, happened.message)


def _decode(body: Object) -> LoraAdapter | None:
    try:
        return LoraAdapter.model_validate(body)
    except ValidationError as error:
        # The CRD's schema refuses such objects; one that was stored under an older schema must not stop the others.
        log.error("LoraAdapter %s cannot be read: %s", body["metadata"]["name"], error)
        return None

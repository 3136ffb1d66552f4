"""Carries a plan's orders to the sidecars: in parallel, with a bound, each with its own deadline.

What a sidecar does not take becomes a `Refusal`, which the planner is shown so that it waits before the next try.
An order that was not delivered is no refusal: a sidecar that is gone is noticed by `watch`, and one that only lost this
one call says nothing new to `watch`, so the caller looks again on its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx

from patio.client import Refused, SidecarClient, SidecarError
from patio_operator.placement.plans import Load, Order, Refusal, Unload

log = logging.getLogger(__name__)

AT_ONCE = 32
"""Orders under way at the same time, over all pods."""
RETRY_SECONDS = 5.0
PERMANENT_RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Given:
    """What became of a pass's orders."""

    refusals: Mapping[tuple[str, Order], Refusal]
    """Those refused, by pod UID and order."""
    undelivered: int
    """How many reached no sidecar, as far as is known."""


class Orders:
    """Gives orders, and remembers those that were not taken until they may be tried again."""

    def __init__(self, http: httpx.AsyncClient, rng: random.Random, auth: Callable[[str], httpx.Auth]) -> None:
        """Take what signs the calls to a pod, by the pod's UID."""
        self._http = http
        self._rng = rng
        self._auth = auth
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def give(self, orders: Sequence[Load | Unload], now: datetime) -> Given:
        """Give all orders."""
        outcomes = await asyncio.gather(*(self._give(order, now) for order in orders))
        return Given(
            refusals={
                (order.pod.uid, order.request): outcome
                for order, outcome in zip(orders, outcomes, strict=True)
                if isinstance(outcome, Refusal)
            },
            undelivered=sum(outcome is False for outcome in outcomes),
        )

    async def _give(self, order: Load | Unload, now: datetime) -> Refusal | bool:
        """Give one order; return its refusal, or whether it was delivered."""
        url = order.pod.sidecar_url
        if url is None:
            return False
        client = SidecarClient(url, self._http, self._auth(order.pod.uid))
        log.info(
            "order: %s %s on %s/%s: %s",
            type(order).__name__.lower(),
            order.request.lora_name,
            order.pod.namespace,
            order.pod.name,
            order.reason,
        )
        async with self._slots:
            try:
                if isinstance(order, Load):
                    await client.load(order.request)
                else:
                    await client.unload(order.request)
            except Refused as error:
                pause = RETRY_SECONDS if error.retryable else PERMANENT_RETRY_SECONDS
                log.warning(
                    "order refused: %s on %s/%s: %s",
                    order.request.lora_name,
                    order.pod.namespace,
                    order.pod.name,
                    error,
                )
                until = now + timedelta(seconds=pause * self._rng.uniform(1.0, 1.3))
                return Refusal(error.message, error.retryable, until)
            except SidecarError as error:
                log.info("order not delivered to %s/%s: %s", order.pod.namespace, order.pod.name, error)
                return False
        return True

"""Dispatches a plan's orders to the sidecars: in the background, a few at once for a pod and over all, with deadlines.

An order that a sidecar does not take becomes a `Rejection`, which the planner is shown so that it waits before the next
try, longer each time. An order that was not delivered is no rejection: it is sent again after a growing pause. One that
was taken is not repeated before the sidecar's report can show what became of it. A Secret's values are sealed in an
order here, at the last moment, for a sidecar that proved which pod it is in (`handshake`), and are in nothing that is
kept.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import httpx

from patio_kube.runtime.task_pool import KeyedTaskPool
from patio_operator.loraadapters.handshake import Handshakes, UnprovenError
from patio_operator.loraadapters.planner.credentials import InvalidSecretError, check, config_of
from patio_operator.loraadapters.planner.observation import UNOBSERVED, Observation
from patio_operator.loraadapters.planner.plan import Load, Order, Rejection, Unload
from patio_operator.pods.engine_pod import EnginePod
from patio_operator.security.sealing import sealed
from patio_operator.security.token_reviews import TokenReviewError
from patio_protocol.adapters import LoadRequest, UnloadRequest
from patio_protocol.backoff import exponential, with_jitter
from patio_protocol.client import SidecarClient
from patio_protocol.credentials import SEALED_FOR_ANOTHER
from patio_protocol.errors import RejectedError, SidecarError

log = logging.getLogger(__name__)

AT_ONCE = 64
"""Orders in progress at the same time, over all pods."""
AT_ONCE_FOR_A_NAMESPACE = 48
"""Of these: one whose pods do not answer orders leaves room for others."""
AT_ONCE_FOR_A_POD = 2
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""After a temporary rejection; after a permanent one the longest pause follows directly."""
ORDER_SECONDS = 60.0
"""For one order in all, a handshake and the API server's answer about it included."""
MOST_WORDS = 1000
"""Characters of a rejection: any process at the pod's address may have written it."""
REPORT_SECONDS = 2.0
"""How long the report of a sidecar that took an order may be without it."""


@dataclass(frozen=True)
class SecretValues:
    """The content of a Secret, for the order that is about to be sent."""

    revision: str
    values: Mapping[str, str]

    def __repr__(self) -> str:
        return f"SecretValues({self.revision!r})"


class Secrets(Protocol):
    """Where the values of Secrets come from."""

    async def values(self, namespace: str, name: str) -> SecretValues | None:
        """Read a Secret; None when it cannot be had at the moment, which is logged."""


@dataclass(frozen=True)
class _Rejected:
    rejection: Rejection
    failures: int


@dataclass(frozen=True)
class _Taken:
    order: Order
    report: str | None
    """Revision of the sidecar's report when the order was given."""
    until: datetime


_Wanted = tuple[str, str, str | None, str | None, bool]
"""Pod UID, name, and what tells one order for them from another."""


def _wanted(order: Load | Unload) -> _Wanted:
    request = order.request
    if isinstance(request, UnloadRequest):
        return order.pod.uid, request.lora_name, None, None, False
    return order.pod.uid, request.lora_name, request.revision or "", request.credentials_revision, request.prepare


class Dispatcher:
    """Gives orders, and remembers those that were not taken until they may be tried again. Close it at the end."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        auth: Callable[[str], httpx.Auth],
        secrets: Secrets,
        handshakes: Handshakes,
        now: Callable[[], datetime],
        rng: random.Random,
        on_end: Callable[[str], None],
    ) -> None:
        """`auth` signs the calls to a pod, by its UID; `on_end` gets the namespace of each order that is over."""
        self._http = http
        self._auth = auth
        self._secrets = secrets
        self._handshakes = handshakes
        self._now = now
        self._rng = rng
        self._pool = KeyedTaskPool("order", AT_ONCE, AT_ONCE_FOR_A_POD, rng, on_end, AT_ONCE_FOR_A_NAMESPACE)
        self._wanted: dict[str, tuple[set[_Wanted], set[_Wanted]]] = {}
        """By namespace, what this pass and the one before gave: what waits and is in neither is not given any more."""
        self._rejected: dict[str, dict[tuple[str, Order], _Rejected]] = {}
        self._taken: dict[str, dict[tuple[str, str], _Taken]] = {}

    def rejections(self, namespace: str, pods: Iterable[str]) -> dict[tuple[str, Order], Rejection]:
        """Return what sidecars rejected, by pod UID and order, also if a retry is allowed by now.

        Each pass begins with it, and then gives its orders.

        Args:
            namespace: whose pods.
            pods: UIDs of those that there are; what the others said is forgotten.

        """
        now, uids = self._now(), set(pods)
        self._wanted[namespace] = set(), self._wanted.get(namespace, (set(), set()))[0]
        kept = {key: rejected for key, rejected in self._rejected.get(namespace, {}).items() if key[0] in uids}
        # Known for a while longer: an order that is rejected again waits longer.
        kept = {
            key: rejected
            for key, rejected in kept.items()
            if rejected.rejection.until > now - timedelta(seconds=LONGEST_PAUSE)
        }
        taken = self._taken.get(namespace, {})
        still = {key: accepted for key, accepted in taken.items() if key[0] in uids and accepted.until > now}
        self._rejected[namespace], self._taken[namespace] = kept, still
        if not uids:
            del self._rejected[namespace], self._taken[namespace], self._wanted[namespace]
        return {key: rejected.rejection for key, rejected in kept.items()}

    def dispatch(self, orders: Iterable[Load | Unload], seen: Mapping[str, Observation]) -> datetime | None:
        """Give the orders that are not on their way already. `seen`: what the plan was made from.

        Return when to plan again though nothing changed: an order that was taken may show nowhere.
        """
        now = self._now()
        requeue_at: datetime | None = None
        for order in orders:
            pod, request = order.pod, order.request
            key = (pod.uid, request.lora_name)
            self._wanted.setdefault(pod.namespace, (set(), set()))[0].add(_wanted(order))
            answer = seen.get(pod.uid, UNOBSERVED).answer
            report = None if answer is None else answer.revision
            taken = self._taken.get(pod.namespace, {}).get(key)
            if taken is not None and taken.until > now and (taken.order, taken.report) == (request, report):
                requeue_at = taken.until if requeue_at is None else min(requeue_at, taken.until)
                continue
            self._pool.submit(pod.namespace, pod.uid, key, partial(self._dispatch_if_wanted, order, report))
        return requeue_at

    def in_progress(self, pod_uid: str, name: str) -> bool:
        """Tell whether an order about an adapter is on its way to a pod, or waits to be."""
        return self._pool.in_progress((pod_uid, name))

    async def close(self) -> None:
        """Stop the orders in progress and forget everything."""
        await self._pool.close()
        self._rejected.clear()
        self._taken.clear()
        self._handshakes.clear()
        self._wanted.clear()

    async def _dispatch_if_wanted(self, order: Load | Unload, report: str | None) -> bool:
        """Give an order that has waited for its turn, unless no plan wants it any more."""
        wanted = _wanted(order)
        if any(wanted in of_a_pass for of_a_pass in self._wanted.get(order.pod.namespace, ())):
            return await self._dispatch(order, report)
        return True

    async def _dispatch(self, order: Load | Unload, report: str | None) -> bool:
        """Give one order; return whether the sidecar answered."""
        pod, planned = order.pod, order.request
        url = pod.sidecar_url
        if url is None:
            return False
        client = SidecarClient(url, self._http, self._auth(pod.uid))
        what = f"{_verb(order)} {planned.lora_name} on {pod.namespace}/{pod.name}"
        log.info("order: %s: %s", what, order.reason)
        reject = partial(self._reject, pod.namespace, (pod.uid, planned))
        try:
            async with asyncio.timeout(ORDER_SECONDS):
                if isinstance(order, Unload):
                    await client.unload(order.request)
                elif order.secret is None:
                    await client.load(order.request)
                elif not await self._load_with_credentials(order, order.secret, client):
                    return False
        except RejectedError as error:
            log.warning("order rejected: %s: %s: %s", what, error.code, error.message[:MOST_WORDS])
            reject(error.message, error.retryable)
            return True
        except UnprovenError as error:
            log.warning("order not sent: %s: %s", what, error)
            reject(str(error), True, "SidecarUnproven")
            return True
        except TokenReviewError as error:
            log.warning("order not sent: %s: %s", what, error)
            reject(str(error), True, error.reason)
            return True
        except TimeoutError:
            log.info("order not delivered: %s: no answer within %g s", what, ORDER_SECONDS)
            return False
        except SidecarError as error:
            log.info("order not delivered: %s: %s", what, error)
            return False
        self._rejected.get(pod.namespace, {}).pop((pod.uid, planned), None)
        until = self._now() + timedelta(seconds=REPORT_SECONDS)
        self._taken.setdefault(pod.namespace, {})[pod.uid, planned.lora_name] = _Taken(planned, report, until)
        return True

    async def _load_with_credentials(self, order: Load, secret: str, client: SidecarClient) -> bool:
        """Send an order with a Secret's values in it; return False when they cannot be had at the moment."""
        pod = order.pod
        key = await self._handshakes.key(pod, client)
        found = await self._secrets.values(pod.namespace, secret)
        if found is None:
            return False
        request = order.request.model_copy(update={"credentials_revision": found.revision})
        try:
            check(request, found.values)
        except InvalidSecretError as error:  # it has changed since it was judged, and is judged again
            log.warning("secret %s/%s cannot be used: %s", pod.namespace, secret, error)
            return False
        await self._load_sealed(pod, client, partial(sealed, request, config_of(found.values), pod.uid), key)
        return True

    async def _load_sealed(
        self, pod: EnginePod, client: SidecarClient, shut: Callable[[str], LoadRequest], key: str
    ) -> None:
        try:
            await client.load(shut(key))
        except RejectedError as error:
            if error.code != SEALED_FOR_ANOTHER:
                raise
            # It has started since. Once only: one that says so again is rejected like any other.
            self._handshakes.forget(pod.uid)
            await client.load(shut(await self._handshakes.key(pod, client)))

    def _reject(
        self,
        namespace: str,
        key: tuple[str, Order],
        message: str,
        retryable: bool,
        reason: str = "SidecarRejected",
    ) -> None:
        rejected = self._rejected.setdefault(namespace, {})
        failures = rejected[key].failures + 1 if key in rejected else 1
        pause = exponential(FIRST_PAUSE, LONGEST_PAUSE, failures) if retryable else LONGEST_PAUSE
        until = self._now() + timedelta(seconds=with_jitter(pause, self._rng.random()))
        rejected[key] = _Rejected(Rejection(message[:MOST_WORDS], retryable, until, reason), failures)


def _verb(order: Load | Unload) -> str:
    if isinstance(order, Unload):
        return "unload"
    return "prepare" if order.request.prepare else "load"

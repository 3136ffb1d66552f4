"""The two ways into a router's list: directly, or by a lease at the sidecar beside the router.

`client` drives them, one a router. `DirectRegistration` uses a `registrar` of its own; `LeasedRegistration` lets the
other sidecar register and reads from its answers how that went; `DetectedRegistration` finds out which of the two is
meant by the endpoint.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol

import httpx
from pydantic import JsonValue, TypeAdapter

from patio.network import INCONCLUSIVE, cause_of
from patio.rejection import Rejection
from patio.topology.planner import (
    Condition,
    Progress,
    Reason,
    after_rejection,
    heartbeat,
    moving_pause,
    unobserved,
)
from patio.topology.registered_worker import Worker
from patio.topology.registrar import Registrar
from patio.topology.settings import Endpoint, Role, TopologySettings
from patio_protocol.client import SidecarClient
from patio_protocol.errors import RejectedError, UnreachableError
from patio_protocol.topology import LeaseRequest, Registration, RegistrationState

LEASE_HEARTBEATS = 3
"""A lease lasts so many heartbeats: two may be lost."""

_EXTRA: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class Step(NamedTuple):
    """What one step found."""

    condition: Condition
    pause: float
    """Seconds before the next one."""
    verified: bool
    """Whether the router (or the sidecar beside it) said so, just now."""


class RouterRegistration(Protocol):
    """A worker's place in one router's list."""

    @property
    def name(self) -> str:
        """What the router is called in reports."""

    async def step(self, worker: Worker | None) -> Step:
        """Have the worker in, or out if None. Faults are an answer, not an error."""


class DirectRegistration:
    """Registered with the router by this sidecar."""

    def __init__(self, url: str, registrar: Registrar) -> None:
        """`url` is the worker's: an earlier life of this sidecar may have registered it."""
        self._url = url
        self._registrar = registrar
        self._is_out = False
        registrar.adopt(url)

    @property
    def name(self) -> str:
        """The router's base URL."""
        return self._registrar.router.name

    async def step(self, worker: Worker | None) -> Step:
        """Look at the router, and act."""
        if worker is None and self._is_out:
            return Step(Condition(RegistrationState.NOT_REGISTERED, Reason.NOT_DESIRED), 60.0, False)
        polled = await self._registrar.round({} if worker is None else {worker.url: worker})
        condition = polled.conditions[self._url]
        self._is_out = worker is None and condition.state is RegistrationState.NOT_REGISTERED
        return Step(condition, polled.pause, polled.reached)


class _Bearer(httpx.Auth):
    """Shows the router's key, which is the key to leases as well."""

    def __init__(self, key: str) -> None:
        self._header = f"Bearer {key}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Put the header on."""
        request.headers["authorization"] = self._header
        yield request


class LeasedRegistration:
    """Registered by the sidecar beside the router, for as long as this one renews its lease there."""

    def __init__(
        self,
        endpoint: Endpoint,
        http: httpx.AsyncClient,
        settings: TopologySettings,
        rng: random.Random,
        count: Callable[[str], None],
    ) -> None:
        key = settings.router_key
        self._server = SidecarClient(endpoint.name, http, None if key is None else _Bearer(key))
        self._name = endpoint.name
        self._id = settings.lease_id
        self._interval = settings.heartbeat
        self._rng = rng
        self._count = count
        self._progress = Progress()
        self._moving_since: float | None = None
        self._is_out = False

    @property
    def name(self) -> str:
        """The sidecar's base URL."""
        return self._name

    async def step(self, worker: Worker | None) -> Step:
        """Renew the lease, or give it back."""
        try:
            registration = await self._release() if worker is None else await self._renew(worker)
        except (UnreachableError, RejectedError) as error:
            rejection = _rejection(error)
            self._count(rejection.reason)
            self._progress = after_rejection(self._progress, rejection, time.monotonic(), self._rng.random())
            pause = min(self._interval, max(0.1, self._progress.not_before - time.monotonic()))
            return Step(unobserved(rejection, self._progress, leaving=worker is None), pause, False)
        self._progress = Progress()
        self._is_out = worker is None and registration is None
        if registration is None:
            return Step(Condition(RegistrationState.NOT_REGISTERED, Reason.NOT_DESIRED), self._interval, True)
        condition = Condition(registration.state, registration.reason, registration.message, registration.worker_id)
        now = time.monotonic()
        if registration.state in (RegistrationState.PENDING, RegistrationState.LEAVING):
            self._moving_since = now if self._moving_since is None else self._moving_since
            pause = moving_pause(now - self._moving_since)
        else:
            self._moving_since = None
            pause = heartbeat(self._interval, self._rng.random())
        return Step(condition, min(pause, self._interval), True)

    async def _renew(self, worker: Worker) -> Registration:
        self._is_out = False
        request = LeaseRequest(
            url=worker.url,
            worker_type=worker.kind,
            bootstrap_port=worker.bootstrap_port,
            api_key=worker.api_key,
            extra=_EXTRA.validate_python(dict(worker.extra)),
            seconds=LEASE_HEARTBEATS * self._interval,
        )
        return await self._server.renew_lease(self._id, request)

    async def _release(self) -> Registration | None:
        if self._is_out:
            return None
        return await self._server.release_lease(self._id)


class DetectedRegistration:
    """Registered directly or by lease, depending on who answers at the endpoint."""

    def __init__(
        self, endpoint: Endpoint, http: httpx.AsyncClient, direct: DirectRegistration, leased: LeasedRegistration
    ) -> None:
        self._endpoint = endpoint
        self._client = SidecarClient(endpoint.name, http)
        self._direct = direct
        self._leased = leased
        self._chosen: RouterRegistration | None = None
        self._progress = Progress()

    @property
    def name(self) -> str:
        """The endpoint's base URL."""
        return self._endpoint.name

    async def step(self, worker: Worker | None) -> Step:
        """Find out who answers, then leave it to the right one."""
        if self._chosen is None:
            try:
                role = (await self._client.topology()).role
            except UnreachableError as error:
                return self._undetermined(_rejection(error), worker)
            except RejectedError as error:
                if error.status >= 500:
                    return self._undetermined(Rejection(Reason.ERROR, error.message), worker)
                # Routers answer 404 (or 401, when they want a key) to a path that they do not know.
                self._chosen = self._direct
            else:
                if role != Role.SERVER:
                    message = f"The sidecar at {self.name} keeps no leases. Set TOPO_ROLE=server in it."
                    return self._undetermined(Rejection(Reason.NO_SERVER, message, retryable=False), worker)
                self._chosen = self._leased
        step = await self._chosen.step(worker)
        if step.condition.reason == Reason.REJECTED:
            # Perhaps another one answers there by now.
            self._chosen = None
        return step

    def _undetermined(self, rejection: Rejection, worker: Worker | None) -> Step:
        now = time.monotonic()
        self._progress = after_rejection(self._progress, rejection, now, 0.5)
        pause = min(5.0, self._progress.not_before - now)
        return Step(unobserved(rejection, self._progress, leaving=worker is None), pause, False)


def _rejection(error: UnreachableError | RejectedError) -> Rejection:
    if isinstance(error, UnreachableError):
        reason = Reason.ERROR if cause_of(error.__cause__ or error) in INCONCLUSIVE else Reason.UNREACHABLE
        return Rejection(reason, f"{error}.")
    if error.status in (401, 403):
        return Rejection(Reason.UNAUTHORIZED, error.message, retryable=False)
    if error.retryable or error.status >= 500:
        return Rejection(Reason.ERROR, error.message)
    return Rejection(Reason.REJECTED, error.message, retryable=False)

"""The sidecar beside a router: keeps leases, and the router's list in step with them.

Pods' sidecars renew their leases through `routes.topology`; a loop polls the router every second, registers what
has a lease and is not listed, and removes what had one. It never touches workers that never had one.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time

from patio.readiness import Blocker, BlockerKind
from patio.topology.lease_file import LeaseFile
from patio.topology.leases import Leases, dropped, expired, extended, granted, restored, to_save
from patio.topology.planner import Reason
from patio.topology.registered_worker import Kind, Worker
from patio.topology.registrar import Registrar, Round
from patio.topology.settings import Role
from patio_protocol.topology import LeaseReport, LeaseRequest, Registration, RegistrationState, TopologyReport

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Seconds between polls of the router, over loopback: what it lost is back as soon."""
MOST_LEASES = 10_000
LATE_SECONDS = 3.0
"""Seconds late by which a round proves that this process was suspended, and could hear no pod."""


class TooManyLeasesError(Exception):
    """So many leases are held that no other one is granted."""


class TopologyServer:
    """The router's side of the topology."""

    def __init__(self, registrar: Registrar, file: LeaseFile, key: str | None) -> None:
        """`key` is the router's: who leases must have it, as who calls the router must."""
        self._registrar = registrar
        self._proof = None if key is None else f"Bearer {key}".encode()
        self._file = file
        self._leases = Leases()
        self._saved: dict[str, tuple[str, float]] = {}
        self._round = Round(reached=False)
        self._shown: dict[str, Registration] = {}
        """By URL."""
        self._leaving: dict[str, str] = {}
        """URLs of leases that were given back, by id, until their pods have heard that they are gone."""
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Keep the router's list in step, until cancelled."""
        self._saved = await asyncio.to_thread(self._file.load)
        now = time.monotonic()
        from_file = restored(self._saved, now)
        self._leases = Leases({**from_file.by_id, **self._leases.by_id})
        for lease in from_file.by_id.values():
            self._registrar.adopt(lease.url)
        log.info("leases read count=%d", len(from_file.by_id))
        expected = now
        while True:
            self._woken.clear()
            now = time.monotonic()
            if now - expected > LATE_SECONDS:
                log.warning("the process was suspended, so all leases are extended seconds=%.0f", now - expected)
                self._leases = extended(self._leases, now - expected)
            self._leases, ended = expired(self._leases, now)
            for lease in ended:
                log.warning("lease expired lease=%s worker=%s seconds=%g", lease.id, lease.url, lease.seconds)
            await self._keep()
            self._round = await self._registrar.round(self._leases.desired, self._leases.held)
            self._show()
            self._forget()
            now = time.monotonic()
            ends = self._leases.next_end
            pause = min(POLL_SECONDS, self._round.pause, POLL_SECONDS if ends is None else max(0.0, ends - now))
            expected = now + pause
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def admits(self, authorization: str | None) -> bool:
        """Whether a call with this Authorization header may lease."""
        return self._proof is None or hmac.compare_digest(self._proof, (authorization or "").encode())

    def renew(self, lease_id: str, request: LeaseRequest) -> Registration:
        """Begin or renew a lease; return how its worker stands with the router. Raise `TooManyLeasesError`."""
        worker = Worker(
            url=request.url,
            kind=Kind(request.worker_type),
            bootstrap_port=request.bootstrap_port,
            extra=request.extra,
            api_key=request.api_key,
        )
        previous = self._leases.by_id.get(lease_id)
        if previous is None and len(self._leases.by_id) >= MOST_LEASES:
            raise TooManyLeasesError(f"This sidecar keeps {MOST_LEASES} leases, which is the limit. Try again later.")
        self._leases = granted(self._leases, lease_id, worker, request.seconds, time.monotonic())
        if previous is None or previous.worker != worker:
            log.info("lease granted lease=%s worker=%s kind=%s", lease_id, worker.url, worker.kind)
            self._woken.set()
        return self._registration(worker.url, leaving=False)

    def release(self, lease_id: str) -> Registration | None:
        """End a lease; return how its worker leaves, or None when there is nothing left of it."""
        lease = self._leases.by_id.get(lease_id)
        if lease is not None:
            log.info("lease released lease=%s worker=%s", lease_id, lease.url)
            self._leases = dropped(self._leases, lease_id)
            self._leaving[lease_id] = lease.url
            self._woken.set()
        url = self._leaving.get(lease_id)
        if url is None:
            return None
        condition = self._round.conditions.get(url)
        if lease is None and (condition is None or condition.state is RegistrationState.NOT_REGISTERED):
            del self._leaving[lease_id]
            return None
        return self._registration(url, leaving=True)

    def report(self) -> TopologyReport:
        """Return every lease, and how its worker stands as last read back."""
        now = time.monotonic()
        leases = tuple(
            LeaseReport(
                id=lease.id,
                expires_in=round(lease.expires - now, 3),
                registration=self._registration(lease.url, leaving=False),
            )
            for lease in self._leases.by_id.values()
        )
        registered = all(lease.registration.state is RegistrationState.REGISTERED for lease in leases)
        return TopologyReport(role=Role.SERVER, registered=registered and self._round.reached, leases=leases)

    @property
    def blockers(self) -> tuple[Blocker, ...]:
        """Why the pod is not ready: the router does not answer."""
        message = f"router: {self._registrar.router.name} did not answer the last poll"
        return () if self._round.reached else (Blocker(BlockerKind.ROUTER, message),)

    @property
    def router_reached(self) -> bool:
        """Whether the router answered the last poll."""
        return self._round.reached

    async def _keep(self) -> None:
        """Save the leases when others begin or end; a full disk is no reason not to serve."""
        content = to_save(self._leases)
        if content == self._saved:
            return
        try:
            await asyncio.to_thread(self._file.save, content)
        except OSError as error:
            log.error("leases not stored error=%s", error)
        self._saved = content

    def _forget(self) -> None:
        """Forget what has left, whether or not its pod asks once more."""
        conditions = self._round.conditions
        self._leaving = {
            lease_id: url
            for lease_id, url in self._leaving.items()
            if url in conditions and conditions[url].state is not RegistrationState.NOT_REGISTERED
        }

    def _show(self) -> None:
        """Remember since when each worker stands as it does."""
        now = time.time()
        kinds = {lease.url: lease.worker.kind for lease in self._leases.by_id.values() if lease.worker is not None}
        shown = {}
        for url, condition in self._round.conditions.items():
            previous = self._shown.get(url)
            changed = previous is None or previous.state is not condition.state
            if previous is None or changed or previous.reason != condition.reason:
                log.info("registration worker=%s state=%s reason=%s", url, condition.state, condition.reason)
            shown[url] = Registration(
                router=self._registrar.router.name,
                worker_url=url,
                worker_type=kinds.get(url, Kind.REGULAR),
                worker_id=condition.worker_id,
                state=condition.state,
                reason=condition.reason,
                message=condition.message,
                since=now if previous is None or changed else previous.since,
                verified=now if self._round.reached else None if previous is None else previous.verified,
            )
        self._shown = shown

    def _registration(self, url: str, leaving: bool) -> Registration:
        """Return how a worker stands, in the light of what its pod sent since the last poll."""
        shown = self._shown.get(url)
        state = RegistrationState.LEAVING if leaving else RegistrationState.PENDING
        out = (RegistrationState.LEAVING, RegistrationState.NOT_REGISTERED)
        if shown is not None and (shown.state in out) is leaving:
            return shown
        kinds = {lease.url: lease.worker.kind for lease in self._leases.by_id.values() if lease.worker is not None}
        return Registration(
            router=self._registrar.router.name,
            worker_url=url,
            worker_type=kinds.get(url, Kind.REGULAR),
            state=state,
            reason=Reason.NOT_DESIRED if leaving else Reason.NOT_CONTACTED,
            since=time.time(),
        )

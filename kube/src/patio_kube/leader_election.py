"""Holds the Lease, and has this replica act for as long as it holds it.

`LeaderElector.run` waits for the Lease, runs what it was given, and ends that at once when the Lease is lost: to
another replica, or because the API server did not confirm a renewal in time. Then it waits again. When it is cancelled
it first ends the acting and then releases the Lease, so that a successor starts within a second. `lease_rules` (pure)
decides.

Nothing here fences writes: a process that was frozen may finish a write that it had begun. What the operator
writes is made for that: server-side apply of what should be, and merges on a resource version.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from patio_kube import lease_rules
from patio_kube.client import ApiError, ConflictError, KubeClient, NotFoundError, Object
from patio_kube.resources import LEASE

log = logging.getLogger(__name__)

REQUEST_SECONDS = 3.0
"""For one look at the Lease or one write of it: there must be time for another before the deadline."""


class LeaseLostError(Exception):
    """Another replica holds the Lease."""


class LeaderElector:
    """One replica's part in the election. `leading` tells whether it acts."""

    def __init__(
        self, client: KubeClient, namespace: str, name: str, identity: str, on_change: Callable[[bool], None]
    ) -> None:
        """`identity` is this replica's alone; `on_change` is called with what `leading` has become."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._on_change = on_change
        self._seen: lease_rules.ObservedRecord | None = None
        self.leading = False
        self.on_renewal_failure: Callable[[], None] = lambda: None
        """Is called for each attempt to renew the Lease that the API server did not confirm."""

    @property
    def transitions(self) -> int | None:
        """How often the Lease went to another replica, as it says itself; None before it was read."""
        return None if self._seen is None else self._seen.record.transitions

    async def run(self, act: Callable[[], Awaitable[None]]) -> None:
        """Act whenever this replica leads, until cancelled. What `act` raises ends it."""
        try:
            while True:
                heard = await self._until_held()
                await self._lead(act, heard)
        finally:
            await self._release()

    async def _until_held(self) -> float:
        """Wait for the Lease; return when the request that got it was made (monotonic)."""
        logged_holder = ""
        while True:
            requested_at = time.monotonic()
            pause = lease_rules.LOOK_EVERY
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    wait = await self._take()
                if wait == 0:
                    return requested_at
                pause = min(pause, wait)
            except ConflictError:
                pause = 0.1  # another replica wrote it meanwhile
            except (ApiError, TimeoutError) as error:
                log.warning("lease %s not read: %s", self._name, error or "no answer in time")
            holder = self._seen.record.holder if self._seen else ""
            if holder not in (logged_holder, self._identity):
                logged_holder = holder
                log.info("standing by: %s leads", holder)
            await asyncio.sleep(pause)

    async def _take(self) -> float:
        """Take the Lease if that is possible: 0. Else return the seconds until it may be."""
        try:
            lease = await self._client.get(LEASE, self._name, self._namespace)
        except NotFoundError:
            body: Object = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.kind,
                "metadata": {"name": self._name, "labels": {"app.kubernetes.io/part-of": "patio"}},
                "spec": lease_rules.held(None, self._identity, datetime.now(UTC)),
            }
            self._know(await self._client.create(LEASE, body, self._namespace))
            return 0.0
        seen = self._know(lease)
        wait = lease_rules.free_in(seen, self._identity, time.monotonic())
        if wait == 0:
            await self._write(lease, lease_rules.held(seen.record, self._identity, datetime.now(UTC)))
        return wait

    async def _lead(self, act: Callable[[], Awaitable[None]], heard: float) -> None:
        self._change(leading=True)
        acting = asyncio.ensure_future(act())
        renewing = asyncio.create_task(self._renew(heard), name="lease")
        try:
            await asyncio.wait((acting, renewing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            acting.cancel()
            renewing.cancel()
            await asyncio.wait((acting, renewing))
            self._change(leading=False)
        for task in (acting, renewing):
            if not task.cancelled() and (error := task.exception()) is not None:
                if not isinstance(error, LeaseLostError):
                    raise error
                log.error("stopped leading: %s", error)

    async def _renew(self, heard: float) -> None:
        """Renew until that fails permanently.

        Raises:
            LeaseLostError: another replica has it, or the deadline passed.

        """
        while True:
            deadline = asyncio.get_running_loop().time() + heard + lease_rules.RENEW_DEADLINE - time.monotonic()
            try:
                async with asyncio.timeout_at(deadline):
                    heard = await self._renewed()
            except TimeoutError:
                raise LeaseLostError(
                    f"lease {self._name} could not be renewed for {lease_rules.RENEW_DEADLINE:.0f} s"
                ) from None

    async def _renewed(self) -> float:
        await asyncio.sleep(lease_rules.RENEW_EVERY)
        while True:
            requested_at = time.monotonic()
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    if await self._take() > 0:
                        assert self._seen is not None
                        raise LeaseLostError(f"lease {self._name} was taken by {self._seen.record.holder}")
                return requested_at
            except ConflictError:
                log.info("lease %s was changed meanwhile, reading it again", self._name)
            except (ApiError, TimeoutError) as error:
                log.warning("lease %s not renewed: %s", self._name, error or "no answer in time")
                self.on_renewal_failure()
            await asyncio.sleep(0.5)

    async def _release(self) -> None:
        """Give the Lease up, if it is still ours; best effort, since it runs out by itself."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                lease = await self._client.get(LEASE, self._name, self._namespace)
                if lease_rules.record(lease.get("spec") or {}).holder == self._identity:
                    await self._write(lease, lease_rules.released(datetime.now(UTC)))
                    log.info("lease %s released", self._name)
        except (ApiError, TimeoutError) as error:
            log.warning("lease %s not released, it expires: %s", self._name, error or "no answer in time")

    async def _write(self, lease: Object, spec: Object) -> None:
        patch = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}
        self._know(await self._client.merge(LEASE, self._name, self._namespace, patch))

    def _know(self, lease: Object) -> lease_rules.ObservedRecord:
        self._seen = lease_rules.see(self._seen, lease_rules.record(lease.get("spec") or {}), time.monotonic())
        return self._seen

    def _change(self, *, leading: bool) -> None:
        self.leading = leading
        log.info("leading as %s" if leading else "no longer leading as %s", self._identity)
        self._on_change(leading)

"""Puts the topology together from the settings: a client, a server, or nothing. `app` calls it; nothing runs yet.

What a topology is made of is imported only for those who have one.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
from prometheus_client import CollectorRegistry

from patio.topology.settings import Endpoint, Role, TopologySettings
from patio_protocol.topology import TopologyReport

if TYPE_CHECKING:
    from patio.topology.client import TopologyClient
    from patio.topology.registrar import Registrar
    from patio.topology.registration import RouterRegistration
    from patio.topology.server import TopologyServer

log = logging.getLogger(__name__)

KEPT = 20
"""Idle connections to routers that are kept."""


@dataclass(frozen=True, slots=True)
class Topology:
    """One side of the topology, or none."""

    client: TopologyClient | None = None
    server: TopologyServer | None = None
    none: TopologyReport = field(default_factory=TopologyReport)
    """What there is to say without either."""

    def report(self) -> TopologyReport:
        """Return what there is to say."""
        if self.client is not None:
            return self.client.report()
        return self.none if self.server is None else self.server.report()

    async def run(self) -> None:
        """Run it, until cancelled; return at once when there is nothing to run."""
        if self.client is not None:
            await self.client.run()
        elif self.server is not None:
            await self.server.run()

    def begin(self) -> None:
        """Leave all routers permanently."""
        if self.client is not None:
            self.client.leave()

    @property
    def has_left(self) -> bool:
        """Whether all routers send nothing more; so it is without any."""
        return self.client is None or self.client.has_left

    @property
    def unreachable(self) -> bool:
        """Whether all routers that may still send something did not answer when they were asked to let go."""
        return self.client is None or self.client.unreachable

    async def wait_until_left(self, seconds: float) -> bool:
        """Leave all routers; return whether they send nothing more, within so many seconds."""
        return self.client is None or await self.client.wait_until_left(seconds)


def open_client(endpoints: Sequence[Endpoint]) -> httpx.AsyncClient:
    """Return the client that asks routers. Close it at the end.

    How many calls there are at once is limited by who calls, never by the pool: httpcore 1 keeps a connection that it
    gave to a waiting request just when that was given up, and never uses it.
    """
    # The CA bundle is 4 MB of memory: only a router behind TLS gets it.
    verify = any(url.startswith("https:") for endpoint in endpoints for url in endpoint.urls)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=KEPT)
    return httpx.AsyncClient(trust_env=False, verify=verify, limits=limits)


def build_topology(
    settings: TopologySettings,
    http: httpx.AsyncClient,
    registry: CollectorRegistry,
    engine_ready: Callable[[], bool],
    rng: random.Random,
) -> Topology:
    """Return the topology that the settings ask for."""
    if settings.not_configured:
        from patio.topology.planner import Reason

        log.warning("no router reason=%s message=%s", Reason.NOT_CONFIGURED, settings.not_configured)
        return Topology(
            none=TopologyReport(role=Role.CLIENT, reason=Reason.NOT_CONFIGURED, message=settings.not_configured)
        )
    if not settings.enabled:
        return Topology()

    from patio.topology.client import TopologyClient
    from patio.topology.lease_file import LeaseFile
    from patio.topology.metrics import TopologyMetrics
    from patio.topology.registrar import Registrar
    from patio.topology.registration import DetectedRegistration, DirectRegistration, LeasedRegistration
    from patio.topology.routers import Router
    from patio.topology.server import TopologyServer

    metrics = TopologyMetrics(registry, lambda: topology.report())

    def registrar(endpoint: Endpoint) -> Registrar:
        return Registrar(Router(endpoint, http, settings.router_key), settings.heartbeat, rng, metrics.count_failure)

    def registration(endpoint: Endpoint, url: str) -> RouterRegistration:
        direct = DirectRegistration(url, registrar(endpoint))
        if not endpoint.may_be_server:
            return direct
        return DetectedRegistration(
            endpoint, http, direct, LeasedRegistration(endpoint, http, settings, rng, metrics.count_failure)
        )

    if settings.is_server:
        topology = Topology(
            server=TopologyServer(registrar(settings.endpoints[0]), LeaseFile(settings.lease_file), settings.router_key)
        )
        return topology
    assert settings.worker is not None
    worker = settings.worker
    registrations = [registration(endpoint, worker.url) for endpoint in settings.endpoints]
    topology = Topology(client=TopologyClient(worker, registrations, engine_ready))
    return topology

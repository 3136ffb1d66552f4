"""The routes of the topology: how this pod stands with its routers; beside a router, the leases of the others.

What to do about it is decided in `topology`; this module knows only how to say it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Path

from patio.access.openness import EVERYONE, Openness, To, open_to
from patio.routes.responses import ApiError
from patio_protocol.topology import LEASES_PATH, LeaseId, LeaseRequest, Registration, TopologyReport

if TYPE_CHECKING:
    from patio.topology.server import TopologyServer

MAX_LEASE = 64 * 1024
"""Bytes of the body of a lease."""
KEY_MISSING = "A lease needs the router's key as a bearer token. Set SGL_ROUTER_API_KEY in the pod's sidecar."

_Id = Annotated[LeaseId, Path(description="The pod that leases, as `name.namespace`.")]


def add_topology(app: FastAPI, report: Callable[[], TopologyReport], server: TopologyServer | None) -> None:
    """Add the routes; those of leases only beside a router."""

    @app.get("/v1/topology")
    @open_to(EVERYONE)
    async def topology() -> TopologyReport:
        """Show every registration as its router last reported it. Beside a router, show every lease."""
        return report()

    if server is None:
        return

    # Other pods' sidecars lease, and none of them can sign. A lease gives no more than the router's own /workers does
    # to all who reach it, and asks for the same key, before its body is read.
    leasing = Openness(To.KEY, server.admits, KEY_MISSING, MAX_LEASE)

    @app.put(LEASES_PATH + "{lease_id}")
    @open_to(leasing)
    async def renew(lease_id: _Id, request: LeaseRequest) -> Registration:
        """Begin or renew a lease: the sidecar keeps the worker registered with its router for that time."""
        from patio.topology.server import TooManyLeasesError  # only beside a router

        try:
            return server.renew(lease_id, request)
        except TooManyLeasesError as full:
            raise ApiError(429, "TooManyLeases", str(full), retryable=True) from None

    @app.delete(LEASES_PATH + "{lease_id}")
    @open_to(leasing)
    async def release(lease_id: _Id) -> Registration:
        """Release a lease. 200 while the router still has the worker, 404 once nothing of the lease is left."""
        registration = server.release(lease_id)
        if registration is None:
            raise ApiError(404, "NotFound", f"There is no lease {lease_id}, and no worker of that lease.")
        return registration

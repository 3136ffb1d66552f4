"""The drain routes: take the pod out of service, wait for its requests, say what came of it.

GET does the same as POST: kubelet's `httpGet` hooks can not send anything else.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, FastAPI, Query

from patio.api.topology_protocol import DrainAnswer, DrainRequest
from patio.drain.drain import Drain


def add_drain(app: FastAPI, drain: Drain) -> None:
    """Add the routes."""

    @app.post("/v1/drain")
    async def post(request: Annotated[DrainRequest | None, Body()] = None) -> DrainAnswer:
        """Make /ready fail, leave the router, wait until the engine has no request or the time is over.

        200 either way.
        """
        return await drain.drain(None if request is None else request.timeout)

    @app.get("/v1/drain")
    async def get(
        timeout: Annotated[float | None, Query(ge=0, le=3600, description="Seconds; absent: the setting.")] = None,
    ) -> DrainAnswer:
        """The same, for kubelet's `httpGet` preStop hook. It changes something, though it is a GET."""
        return await drain.drain(timeout)

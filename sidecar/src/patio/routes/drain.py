"""The drain routes: take the pod out of service, wait for its requests, say what came of it.

GET does the same as POST, for the kubelet: its `httpGet` hooks can send nothing else, and show the hook's word.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, FastAPI, Query

from patio.access.openness import HOOK, open_to
from patio.drain.drain import Drain
from patio_protocol.topology import DrainAnswer, DrainRequest


def add_drain(app: FastAPI, drain: Drain) -> None:
    """Add the routes."""

    @app.post("/v1/drain")
    @open_to(HOOK)
    async def post(request: Annotated[DrainRequest | None, Body()] = None) -> DrainAnswer:
        """Drain the pod: fail /ready, leave the routers, wait until the engine has no request or the timeout is over.

        200 in both cases.
        """
        return await drain.drain(None if request is None else request.timeout)

    @app.get("/v1/drain")
    @open_to(HOOK)
    async def get(
        timeout: Annotated[
            float | None, Query(ge=0, le=3600, description="Seconds; default: PATIO_DRAIN_TIMEOUT.")
        ] = None,
    ) -> DrainAnswer:
        """Drain as POST does, for the kubelet's preStop hook. Needs the hook's proof, also from loopback."""
        return await drain.drain(timeout)

"""The routes of probes and of Prometheus: /healthz and /readyz, and /metrics beside them or on a port of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from patio_operator.telemetry.exposition import Pages
from patio_operator.telemetry.metrics import Metrics

SEND_SECONDS = 30.0
"""In which a caller has to read the metrics; then its connection is closed. Prometheus waits ten seconds by default."""
SLICE = 16 * 1024
"""Bytes handed to a connection at once: it keeps a copy of what its caller has not read."""
KERNEL_BYTES = 64 * 1024
"""Of an answer that the kernel keeps for a caller. By itself it takes up to 4 MiB, which count as the container's."""


@dataclass(frozen=True)
class Rejection:
    """Why a caller does not get the metrics."""

    status: int
    """401: it did not prove who it is. 403: it may not read metrics. 503: the operator cannot tell at the moment."""
    message: str


Admit = Callable[[str | None], Awaitable[Rejection | None]]
"""Takes the header Authorization; returns why its sender does not get the metrics, None: it does."""


def health_application(ready: Callable[[], bool], metrics: Metrics | None) -> web.Application:
    """Return the application with /healthz and /readyz, and with /metrics for everyone unless `metrics` is None."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if ready() else web.Response(text="starting", status=503)

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    if metrics is not None:
        pages = Pages(metrics)

        async def everyone(request: web.Request) -> web.StreamResponse:
            return await _send(request, pages)

        app.router.add_get("/metrics", everyone, allow_head=False)
    return app


def metrics_application(metrics: Metrics, admit: Admit) -> web.Application:
    """Return the application with /metrics for whom `admit` lets in."""
    pages = Pages(metrics)

    async def some(request: web.Request) -> web.StreamResponse:
        rejection = await admit(request.headers.get("Authorization"))
        if rejection is None:
            return await _send(request, pages)
        challenge = {"WWW-Authenticate": "Bearer"} if rejection.status == 401 else None
        return web.Response(text=rejection.message + "\n", status=rejection.status, headers=challenge)

    app = web.Application()
    app.router.add_get("/metrics", some, allow_head=False)
    return app


async def _send(request: web.Request, pages: Pages) -> web.StreamResponse:
    """Send the metrics as fast as the caller reads them."""
    async with pages.lend() as text:
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
        response.content_length = len(text)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                _limit_kernel(request)
                await response.prepare(request)
                for start in range(0, len(text), SLICE):
                    await response.write(text[start : start + SLICE])
                await response.write_eof()
        except (TimeoutError, ConnectionError):  # it reads too slowly, or has left
            if request.transport is not None:
                request.transport.abort()
        return response


def _limit_kernel(request: web.Request) -> None:
    connected = request.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)

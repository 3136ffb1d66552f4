"""The routes of probes and of Prometheus: /healthz and /readyz, and /metrics beside them or on a port of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from patio_operator.telemetry import exposition
from patio_operator.telemetry.metrics import Metrics


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
        shown = metrics

        async def everyone(_: web.Request) -> web.Response:
            return await _page(shown)

        app.router.add_get("/metrics", everyone)
    return app


def metrics_application(metrics: Metrics, admit: Admit) -> web.Application:
    """Return the application with /metrics for whom `admit` lets in."""

    async def some(request: web.Request) -> web.Response:
        rejection = await admit(request.headers.get("Authorization"))
        if rejection is None:
            return await _page(metrics)
        challenge = {"WWW-Authenticate": "Bearer"} if rejection.status == 401 else None
        return web.Response(text=rejection.message + "\n", status=rejection.status, headers=challenge)

    app = web.Application()
    app.router.add_get("/metrics", some)
    return app


async def _page(metrics: Metrics) -> web.Response:
    body = await exposition.page(metrics)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

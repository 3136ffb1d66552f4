"""What the sidecar is, whether it lives, whether its pod is ready, and `/metrics`. All of it open to everyone."""

from __future__ import annotations

import gzip
from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from patio.access.openness import EVERYONE, open_to
from patio.api.protocol import Readiness, ServerStatus
from patio.api.routes.answers import answer
from patio.metrics.scrape import Scraper, allowed


def add_probes(
    app: FastAPI, status_of: Callable[[], ServerStatus], readiness_of: Callable[[], Readiness], scraper: Scraper
) -> None:
    """Add the routes."""

    @app.get("/")
    @open_to(EVERYONE)
    async def status() -> ServerStatus:
        """What this sidecar is and what it stands beside."""
        return status_of()

    @app.get("/health")
    @open_to(EVERYONE)
    async def health() -> Response:
        """The sidecar is alive; nothing about the engine."""
        return Response(b'{"status":"ok"}', media_type="application/json")

    @app.get("/ready", responses={503: {"model": Readiness}})
    @open_to(EVERYONE)
    async def ready() -> Response:
        """The engine is ready, every adapter that the pod waits for is settled, and it is not drained."""
        readiness = readiness_of()
        return answer(readiness, 200 if readiness.ready else 503)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    @open_to(EVERYONE)
    async def metrics(request: Request) -> Response:
        """The engine's metrics, the standard families made of them, and the sidecar's own."""
        page = await scraper.page(allowed(request.headers.get("x-prometheus-scrape-timeout-seconds")))
        text = page.text
        headers = {"content-type": page.form.value, "vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            text = gzip.compress(text, compresslevel=1, mtime=0)
        return Response(text, headers=headers)

"""What the sidecar is, whether it lives, whether its pod is ready, and `/metrics`. All of it open to everyone."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from patio.access.openness import EVERYONE, open_to
from patio.metrics.pages import Page
from patio.metrics.scrape import Scraper, allowed
from patio.routes.responses import answer
from patio_protocol.adapters import Readiness, ServerStatus


class _LargePage(Response):
    """A page in slices."""

    def __init__(self, page: Page, packed: bytes | None, headers: dict[str, str]) -> None:
        size = page.size if packed is None else len(packed)
        super().__init__(headers={**headers, "content-length": str(size)})
        self._page = page
        self._packed = packed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._page.send(send, self._packed)


def add_probes(
    app: FastAPI, status_of: Callable[[], ServerStatus], readiness_of: Callable[[], Readiness], scraper: Scraper
) -> None:
    """Add the routes."""

    @app.get("/")
    @open_to(EVERYONE)
    async def status() -> ServerStatus:
        """Show the sidecar's version, its pod and its engine."""
        return status_of()

    @app.get("/health")
    @open_to(EVERYONE)
    async def health() -> Response:
        """200 while the sidecar is alive, whatever the engine does."""
        return Response(b'{"status":"ok"}', media_type="application/json")

    @app.get("/ready", responses={503: {"model": Readiness}})
    @open_to(EVERYONE)
    async def ready() -> Response:
        """200 if the engine is ready, no required adapter is pending, and the pod is not drained. Otherwise 503."""
        readiness = readiness_of()
        return answer(readiness, 200 if readiness.ready else 503)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    @open_to(EVERYONE)
    async def metrics(request: Request) -> Response:
        """Show the engine's metrics, the standard families made of them, and the sidecar's own metrics."""
        page = await scraper.page(allowed(request.headers.get("x-prometheus-scrape-timeout-seconds")))
        headers = {"content-type": page.form.value, "vary": "accept-encoding"}
        packed = None
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            packed = await scraper.packed(page)
        if page.large:
            return _LargePage(page, packed, headers)
        return Response(page.text if packed is None else packed, headers=headers)

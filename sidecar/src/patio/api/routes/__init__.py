"""The routes of the sidecar's API: read the request, ask whoever owns the answer, write it down.

Decisions are not made here. Adapters belong to `adapters.reconciler`, metrics to `metrics.scrape`; a module a concern
turns their answers into status codes, and `answers` has what they share. `access` stands before all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI

from patio.access.gate import Gate
from patio.adapters.reconciler import Reconciler
from patio.api.protocol import ErrorBody, ServerStatus
from patio.api.routes.access import add_access
from patio.api.routes.adapters import add_adapters
from patio.api.routes.answers import add_faults
from patio.api.routes.probes import add_probes
from patio.metrics.scrape import Scraper


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes answer from."""

    reconciler: Reconciler
    scraper: Scraper
    status: Callable[[], ServerStatus]
    stopping: asyncio.Event
    """Set when the process is asked to leave: long-polls and waits end then."""
    gate: Gate
    count_denial: Callable[[str], None]


def create_app(parts: Parts, version: str, docs: bool) -> FastAPI:
    """Return the application."""
    app = FastAPI(
        title="Patio sidecar",
        version=version,
        docs_url="/docs" if docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    add_probes(app, parts.status, parts.reconciler, parts.scraper)
    add_adapters(app, parts.reconciler, parts.stopping)
    add_faults(app)
    add_access(app, parts.gate, parts.count_denial)
    return app

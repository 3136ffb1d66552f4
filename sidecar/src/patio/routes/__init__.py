"""The routes of the sidecar's API: read the request, ask the owner of the answer, write it down.

Decisions are not made here. Adapters belong to `adapters.reconciler`, metrics to `metrics.scrape`, registrations to
`topology`, the end of a pod to `drain`; a module a concern turns their answers into status codes, and `responses` has
what they share. `access` stands before all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI

from patio.access.authorizer import Authorizer
from patio.access.connection_limits import LongPolls
from patio.access.openness import EVERYONE, open_to
from patio.adapters.reconciler import Reconciler
from patio.credentials.sealing import Sealing
from patio.downloads.downloads import Downloads
from patio.drain.drain import Drain
from patio.metrics.scrape import Scraper
from patio.routes.access import add_access
from patio.routes.adapters import add_adapters
from patio.routes.credentials import add_credentials
from patio.routes.downloads import add_downloads
from patio.routes.drain import add_drain
from patio.routes.probes import add_probes
from patio.routes.responses import add_error_handlers
from patio.routes.topology import add_topology
from patio_protocol.adapters import ErrorBody, Readiness, ServerStatus
from patio_protocol.topology import TopologyReport

if TYPE_CHECKING:
    from patio.topology.server import TopologyServer


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes answer from."""

    reconciler: Reconciler
    downloads: Downloads
    scraper: Scraper
    status: Callable[[], ServerStatus]
    readiness: Callable[[], Readiness]
    topology: Callable[[], TopologyReport]
    topology_server: TopologyServer | None
    """Only beside a router; there is no engine then, and so no adapter."""
    drain: Drain | None
    """Only beside an engine."""
    stopping: asyncio.Event
    """Set when the process is asked to leave: long-polls and waits end then."""
    gate: Authorizer
    count_rejection: Callable[[str], None]
    sealing: Sealing
    polls: LongPolls


def create_app(parts: Parts, version: str, docs: bool) -> FastAPI:
    """Return the application."""
    app = FastAPI(
        title="Patio sidecar",
        version=version,
        docs_url="/docs" if docs else None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        openapi_url="/openapi.json" if docs else None,
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    for route in app.routes:  # so far the document and its page, if they are served
        open_to(EVERYONE)(route.endpoint)  # type: ignore[attr-defined]  # they are plain routes of functions
    add_probes(app, parts.status, parts.readiness, parts.scraper)
    if parts.topology_server is None:
        add_adapters(app, parts.reconciler, parts.sealing.opened, parts.stopping, parts.polls)
        add_credentials(app, parts.sealing)
        add_downloads(app, parts.downloads, parts.stopping)
    add_topology(app, parts.topology, parts.topology_server)
    if parts.drain is not None:
        add_drain(app, parts.drain)
    add_error_handlers(app)
    if docs:
        # Words that only readers of the document need: an idle sidecar does without.
        from patio.routes.openapi import add_document

        add_document(app)
    add_access(app, parts.gate, parts.count_rejection)
    return app

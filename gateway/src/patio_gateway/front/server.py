"""Serves the front on a Unix socket: the settings of uvicorn with its bounds.

Envoy keeps connections for an hour; a shorter time here would close them under a request. The number of requests at a
time is that of held ones and some more, so that the page and control are answered while a queue is full.
"""

from __future__ import annotations

import uvicorn
from starlette.types import ASGIApp

MOST_REQUESTS = 11_000
"""At a time; uvicorn answers 503 above it."""


def config(app: ASGIApp, socket: str) -> uvicorn.Config:
    """Return how uvicorn serves the front on `socket`, a path of at most 107 bytes that does not exist."""
    return uvicorn.Config(
        app,
        uds=socket,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        backlog=4096,
        limit_concurrency=MOST_REQUESTS,
        timeout_keep_alive=4000,
        timeout_graceful_shutdown=5,
    )

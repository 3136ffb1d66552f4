"""The HTTP clients that ask the engine: one for polls, one for orders, one for drains, each with a pool of its own.

`app` opens them. Loads that wait for hundreds of seconds, or a scrape of an engine that hangs, cannot take the
connections by which the sidecar sees whether its engine is ready, and none of them those of a drain. How many calls
there are at once is limited by who calls, never by a pool: httpcore 1 keeps a connection that it gave to a waiting
request just when that was given up, and never uses it. One TLS context serves all; the CA bundle, 4 MB of memory, is
read only for an engine behind TLS.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from patio.engine.address import EngineAddress

KEPT = 4
"""Idle connections that are kept; orders keep none."""
KEPT_SECONDS = 4.0
"""uvicorn closes connections that were idle for five."""


@dataclass(frozen=True, slots=True)
class EngineTls:
    """How an engine behind TLS is known to be the engine."""

    ca_file: Path | None = None
    """CAs, in PEM; None: those of SSL_CERT_FILE and SSL_CERT_DIR, or the ones that everybody trusts."""
    ca_folder: Path | None = None
    verify: bool = True
    server_name: str | None = None
    """The name that the certificate is for, where it is not the host of the endpoint."""


@dataclass(frozen=True, slots=True)
class EngineClients:
    """Open until `close`."""

    polls: httpx.AsyncClient
    orders: httpx.AsyncClient
    drains: httpx.AsyncClient

    async def close(self) -> None:
        """Close all connections."""
        for client in (self.polls, self.orders, self.drains):
            await client.aclose()


def open_clients(address: EngineAddress, tls: EngineTls) -> EngineClients:
    """Return clients that reach the engine. Raise `OSError` (`ssl.SSLError` is one) when its CAs cannot be read."""
    # httpx wants a context for http as well; a bare one knows no CA and costs nothing.
    context = tls_context(tls) if address.tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def client(kept: int) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=kept, keepalive_expiry=KEPT_SECONDS)
        transport = httpx.AsyncHTTPTransport(verify=context, uds=address.socket, limits=limits, trust_env=False)
        hooks = {} if tls.server_name is None else {"request": [_asking_for(tls.server_name)]}
        return httpx.AsyncClient(transport=transport, trust_env=False, event_hooks=hooks)

    # An order is never sent on a connection that the engine is about to close: it would not be known whether it came.
    return EngineClients(client(KEPT), client(0), client(KEPT))


def tls_context(tls: EngineTls) -> ssl.SSLContext:
    """Return the context for an engine behind TLS. Raise `OSError` when its CAs cannot be read."""
    if not tls.verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if tls.ca_file is not None or tls.ca_folder is not None:
        return ssl.create_default_context(cafile=tls.ca_file, capath=tls.ca_folder)
    return httpx.create_ssl_context(trust_env=False)


def _asking_for(name: str) -> Callable[[httpx.Request], Awaitable[None]]:
    """Return what has the certificate checked against a name that is not the URL's host."""

    async def ask(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = name

    return ask

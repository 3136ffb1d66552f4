"""The client that orders are given by, and how much a sidecar's answer may be: one that is larger is ended.

Below everything else, so that it also counts for answers that are not read (a rejection before a call is signed
again). Compressed answers are not taken: sidecars send none, and what a few bytes become is known too late.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from patio_operator.loraadapters.call_observer import Observe, ObservedTransport, nothing

MOST_BYTES = 64 * 1024
"""Of one answer to an order or a handshake, which are a proof or the report of one adapter. The event loop stands still
while an answer is decoded: with megabytes of empty lists, for seconds."""


def open_client(observe: Observe = nothing) -> httpx.AsyncClient:
    """Return the client for orders and handshakes, which tells of each call. Close it at the end.

    How many calls there are at once is limited by who calls (`dispatcher.AT_ONCE`), never by the pool: httpcore 1 keeps
    a connection that it gave to a waiting request just when that was given up, and never uses it. Orders are rare: kept
    connections would be looked through for every other pod's order.
    """
    # Sidecars are addressed by pod IP: a proxy of the environment is never on the way to them.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    transport = ObservedTransport(BoundedTransport(httpx.AsyncHTTPTransport(limits=limits, trust_env=False)), observe)
    return httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)


class BoundedTransport(httpx.AsyncBaseTransport):
    """Hands requests on, and answers back as far as they are bounded."""

    def __init__(self, inner: httpx.AsyncBaseTransport, most: int = MOST_BYTES) -> None:
        self._inner = inner
        self._most = most

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raise `httpx.RemoteProtocolError` for an answer that is too large."""
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.stream.aclose()
            raise httpx.RemoteProtocolError("the answer is compressed, and sidecars do not compress answers")
        response.stream = _Bounded(response.stream, self._most)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, most: int) -> None:
        self._inner = inner
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            size += len(part)
            if size > self._most:
                raise httpx.RemoteProtocolError(f"the answer is longer than {self._most} bytes")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()

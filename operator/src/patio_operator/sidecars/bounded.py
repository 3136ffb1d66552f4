"""How much a sidecar's answer may be: a transport for httpx that ends an answer which is larger.

Below everything else, so that it also counts for answers that nobody looks at (a refusal before a call is signed
anew). Compressed answers are not taken: sidecars send none, and what a few bytes become is known too late.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

MOST_BYTES = 64 * 1024
"""Of one answer to an order or a handshake, which are a proof or the report of one adapter. The event loop stands still
while an answer is decoded: with megabytes of empty lists, for seconds."""


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
            raise httpx.RemoteProtocolError("the answer is compressed, which no sidecar's is")
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
                raise httpx.RemoteProtocolError(f"the answer is more than {self._most} bytes")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()

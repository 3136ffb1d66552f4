"""Tells of each call to a sidecar that is an order or a handshake: which, the status of its answer, how long it took.

Below what signs calls: one that is signed again and repeated is two calls, the first of them with its 401.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from patio_protocol.credentials import HANDSHAKE_PATH

CALLS = {"/v1/load_lora_adapter": "load", "/v1/unload_lora_adapter": "unload", HANDSHAKE_PATH: "handshake"}
"""By path."""

Observe = Callable[[str, int, float], None]
"""Is called with the call, the status of the answer (0: there was none), and the seconds until its head was there."""


def nothing(call: str, status: int, seconds: float) -> None:
    """Observe nothing."""


class ObservedTransport(httpx.AsyncBaseTransport):
    """Hands requests and answers on, and tells of them."""

    def __init__(self, inner: httpx.AsyncBaseTransport, observe: Observe) -> None:
        self._inner = inner
        self._observe = observe

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        call = CALLS.get(request.url.path)
        if call is None:
            return await self._inner.handle_async_request(request)
        status, began = 0, time.perf_counter()
        try:
            response = await self._inner.handle_async_request(request)
            status = response.status_code
            return response
        finally:
            self._observe(call, status, time.perf_counter() - began)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()

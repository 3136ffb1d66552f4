"""The client that orders are given by: its pool makes no call wait."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from patio_operator.loraadapters.bounded_transport import open_client
from patio_operator.loraadapters.call_observer import ObservedTransport
from patio_operator.loraadapters.dispatcher import AT_ONCE
from patio_testing.deadline import DEADLINE


async def test_no_call_waits_for_a_place_in_the_pool() -> None:
    # httpcore 1 keeps a connection that it gave to a waiting request just when that was given up, and never uses it.
    arrivals = asyncio.Semaphore(0)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrivals.release()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with open_client() as http, asyncio.timeout(DEADLINE):
        calls = [asyncio.create_task(http.get(url, timeout=None)) for _ in range(2 * AT_ONCE)]
        for _ in calls:
            await arrivals.acquire()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    server.close()


async def test_orders_are_told_with_their_status() -> None:
    calls: list[tuple[str, int]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.host == "gone":
            raise httpx.ConnectError("refused")
        return httpx.Response(401)

    transport = ObservedTransport(
        httpx.MockTransport(handle), lambda call, status, seconds: calls.append((call, status))
    )
    async with httpx.AsyncClient(transport=transport) as http:
        await http.post("http://pod/v1/load_lora_adapter")
        await http.post("http://pod/v1/unload_lora_adapter")
        await http.post("http://pod/v1/credentials/handshake")
        await http.get("http://pod/metrics")
        with pytest.raises(httpx.ConnectError):
            await http.post("http://gone/v1/load_lora_adapter")
    assert calls == [("load", 401), ("unload", 401), ("handshake", 401), ("load", 0)]

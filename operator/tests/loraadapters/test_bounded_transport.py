"""The client that orders are given by: its pool makes no call wait."""

from __future__ import annotations

import asyncio

from patio_operator.loraadapters.bounded_transport import open_client
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

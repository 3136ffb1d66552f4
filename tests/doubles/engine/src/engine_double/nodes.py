"""Several processes that are one engine, as SGLang's `--nnodes`, `--node-rank` and `--dist-init-addr`.

The first node opens the meeting place and serves once all others have come; the others look for it by the address they
were given, answer health checks and nothing else. None of them outlives another. `server` calls `gather` and `follow`;
nothing here knows what an engine answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence

from engine_double.settings import Settings

LEADER_LOST = 1
"""Exit status of a node that lost the first one."""
RETRY_SECONDS = 0.3
"""Seconds between two attempts to reach the first node: its name may not resolve yet."""


@contextlib.asynccontextmanager
async def gather(settings: Settings, lost: Callable[[], None]) -> AsyncIterator[None]:
    """Open the meeting place and wait there for all other nodes; inside the `with`, call `lost` when one leaves."""
    joined: dict[int, asyncio.StreamWriter] = {}
    complete = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        joined[int(await reader.readline())] = writer
        print(f"engine double: node {max(joined)} of {settings.nodes} has joined", flush=True)
        if set(joined) == set(range(1, settings.nodes)):
            complete.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        if complete.is_set():
            print("engine double: a node has left", flush=True)
            lost()

    port = int(settings.dist_init_addr.rpartition(":")[2])
    place = await asyncio.start_server(greet, "0.0.0.0", port)
    try:
        await complete.wait()
        yield
    finally:
        place.close()
        for writer in joined.values():
            writer.close()


async def follow(settings: Settings, notes: Sequence[str] = ()) -> int:
    """Be a node that is not the first, until a signal or the end of the first; returns the exit status."""
    following = asyncio.create_task(_follow(settings))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    for note in notes:
        print(f"engine double: {note}", flush=True)
    await asyncio.wait([following])
    return os.EX_OK if following.cancelled() else following.result()


async def _follow(settings: Settings) -> int:
    host, _, port = settings.dist_init_addr.rpartition(":")
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
            break
        except OSError as error:
            print(f"engine double: the first node does not answer at {settings.dist_init_addr}: {error}", flush=True)
            await asyncio.sleep(RETRY_SECONDS)
    writer.write(f"{settings.node_rank}\n".encode())
    async with await asyncio.start_server(_answer, settings.host, settings.port):
        with contextlib.suppress(ConnectionError):
            await reader.read()
    print("engine double: the first node has left", flush=True)
    return LEADER_LOST


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request_line = (await reader.readline()).split()
    status = (
        "200 OK"
        if request_line[:1] == [b"GET"] and request_line[1:2] in ([b"/health"], [b"/health_generate"])
        else "404 Not Found"
    )
    with contextlib.suppress(ConnectionError):
        while (await reader.readline()).strip():
            pass
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
    writer.close()

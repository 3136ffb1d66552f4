"""Connections that strangers hold to the webhook's port: the API server is answered all the same, and they end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from patio_operator.certificates.authority import Periods, first
from patio_operator.webhooks import connections, server
from patio_testing.deadline import DEADLINE
from patio_testing.operator.waiting import until

API_SERVER = "127.0.0.9"
HEAD = b"POST /review HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    bundle = first(["patio-webhook"], datetime.now(UTC), Periods())
    file = tmp_path / "tls.pem"
    file.write_bytes(bundle.certificate + bundle.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


def application(holds: asyncio.Event | None = None) -> web.Application:
    async def review(request: web.Request) -> web.Response:
        await request.read()
        if holds is not None:
            await holds.wait()
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/review", review)
    return app


def port_of(runner: web.AppRunner) -> int:
    port: int = next(address[1] for address in runner.addresses if len(address) == 2)  # IPv4, which has one of its own
    return port


@asynccontextmanager
async def serving(app: web.Application, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    runner = await server.serve(app, 0, context)
    try:
        yield port_of(runner)
    finally:
        await runner.cleanup()


Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(port: int, peer: str, first_bytes: bytes = b"") -> Opened:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(peer, 0))
    writer.write(first_bytes)
    return reader, writer


async def ended(connection: Opened) -> None:
    """Wait until a connection is closed by the server."""
    try:
        async with asyncio.timeout(DEADLINE):
            await connection[0].read()
    except ConnectionError:
        pass
    connection[1].close()


async def reviewed(port: int, context: ssl.SSLContext | None = None) -> None:
    """Ask as the API server does, and be answered."""
    connector = aiohttp.TCPConnector(local_addr=(API_SERVER, 0))
    scheme = "http" if context is None else "https"
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.timeout(DEADLINE):
        url = f"{scheme}://127.0.0.1:{port}/review"
        async with session.post(url, data=b"{}", ssl=not context) as response:
            assert response.status == 200


async def test_review_is_answered_among_idle_and_slow_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 40)
    async with serving(application()) as port:
        held = [await opened(port, f"127.0.0.{2 + number % 3}", (b"", HEAD[:20])[number % 2]) for number in range(200)]
        for _ in range(3):
            await reviewed(port)

        def still_open() -> int:
            return sum(not reader.at_eof() and reader.exception() is None for reader, _ in held)

        await until("the rest are closed", lambda: still_open() <= 40, still_open)
        for _, writer in held:
            writer.close()


async def test_slow_head_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    async with serving(application()) as port:
        connection = await opened(port, "127.0.0.2", HEAD)
        dripping = asyncio.create_task(drip(connection[1]))
        await ended(connection)
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def drip(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(b"x: y\r\n")
        await asyncio.sleep(0.1)


async def test_second_slow_head_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    async with serving(application()) as port:
        reader, writer = await opened(port, "127.0.0.2", HEAD + b"\r\n{}")
        async with asyncio.timeout(DEADLINE):
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n{}")
        writer.write(HEAD)
        await ended((reader, writer))


async def test_review_may_take_longer_than_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    holds = asyncio.Event()
    async with serving(application(holds)) as port:
        asking = asyncio.create_task(reviewed(port))
        await asyncio.wait((asking,), timeout=0.5)
        holds.set()
        await asking


async def test_idle_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.2)
    async with serving(application()) as port:
        await ended(await opened(port, "127.0.0.2"))
        reader, writer = await opened(port, "127.0.0.2", HEAD + b"\r\n{}")
        await ended((reader, writer))


async def test_connection_without_tls_ends(monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.3)
    async with serving(application(), tls) as port:
        silent = [await opened(port, "127.0.0.2") for _ in range(50)]
        await reviewed(port, tls)
        await asyncio.gather(*(ended(connection) for connection in silent))


async def test_answered_review_is_not_closed_for_a_newcomer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 10)
    holds = asyncio.Event()
    async with serving(application(holds)) as port:
        asking = [asyncio.create_task(reviewed(port)) for _ in range(5)]
        await asyncio.wait(asking, timeout=0.3)
        held = [await opened(port, "127.0.0.2") for _ in range(60)]
        holds.set()
        await asyncio.gather(*asking)
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize("had_tls", [False, True])
async def test_connection_accepted_before_the_end_is_answered(
    monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext, had_tls: bool
) -> None:
    monkeypatch.setattr(server, "FIRST_ANSWER_SECONDS", DEADLINE)
    app = application()
    runner = await server.serve(app, 0, tls)
    port = port_of(runner)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(DEADLINE):
        reader, writer = await opened(port, API_SERVER)
        await until("it is accepted", lambda: app[server.CONNECTIONS].expecting)
        if had_tls:
            await writer.start_tls(context)
        ending = asyncio.create_task(server.end(runner))
        await asyncio.wait((ending,), timeout=0.2)
        assert not ending.done()
        if not had_tls:
            await writer.start_tls(context)
        writer.write(HEAD + b"connection: close\r\n\r\n{}")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        await ending
        with pytest.raises(ConnectionRefusedError):
            await opened(port, API_SERVER)
    writer.close()


async def test_silent_connection_holds_the_end_up_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_ANSWER_SECONDS", 0.1)
    app = application()
    runner = await server.serve(app, 0)
    silent = await opened(port_of(runner), "127.0.0.1")
    await until("it is accepted", lambda: app[server.CONNECTIONS].expecting)
    async with asyncio.timeout(DEADLINE):
        await server.end(runner)
    await ended(silent)

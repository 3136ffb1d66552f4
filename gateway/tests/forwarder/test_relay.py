"""Connections to the engine: kept, closed with the client's, and what a client sees when they break."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

import engine_double
from engine_double.server import running_double
from patio_gateway.forwarder import relay
from patio_gateway.forwarder.app import Limits, build
from patio_testing.model_gateway import until

from .forwarders import CHAT, COMPLETIONS, HELLO, config_for, forwarder, in_time

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
RECORDINGS = Path(engine_double.__file__).parent / "recordings/vllm/api-0.32.0-more.jsonl"


@asynccontextmanager
async def raw_engine(*answers: bytes, closes: bool = True) -> AsyncIterator[tuple[int, list[int]]]:
    """Serve these bytes, the last of them for ever, then close the connection; yield the port, and connections."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers[min(len(connections), len(answers)) - 1])
        await writer.drain()
        if not closes:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], connections


async def test_defect_10_connections_to_the_engine_are_kept() -> None:
    opened: list[object] = []
    async with running_double() as double:
        proxy = await asyncio.start_server(
            lambda reader, writer: _piped(opened, double.port, reader, writer), "127.0.0.1", 0
        )
        async with proxy, forwarder(proxy.sockets[0].getsockname()[1]) as forward:
            for _ in range(5):
                assert (await forward.call(HELLO)).status_code == 200
                assert (await forward.http.post(CHAT, json=HELLO | {"stream": True})).status_code == 200
    assert len(opened) == 1


async def _piped(opened: list[object], port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    opened.append(writer)
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))


@pytest.mark.parametrize("is_call", [True, False])
async def test_client_that_hangs_up_a_stream_stops_the_engine(is_call: bool) -> None:
    args = HELLO | {"max_tokens": 500, "stream": True}
    async with running_double(tokens_per_second=20) as double, forwarder(double.port) as forward:
        running = double.engine.core.batch.running
        async with forward.http.stream("POST", CHAT, json={"args": args} if is_call else args) as answer:
            await in_time(anext(answer.aiter_bytes()))
            assert running.total() == 1
        await until(lambda: running.total() == 0, "the engine stopped")


async def test_client_that_hangs_up_before_the_answer_stops_it() -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        while await reader.read(65536):
            pass
        closed.set()
        writer.close()

    arrived = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, forwarder(server.sockets[0].getsockname()[1]) as forward:
        call = asyncio.create_task(forward.call(HELLO))
        await in_time(arrived.wait())
        call.cancel()
        await in_time(closed.wait())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", b"no HTTP\r\n\r\n"])
async def test_engine_that_breaks_a_call_off_is_502(answer: bytes) -> None:
    async with raw_engine(answer) as (port, connections), forwarder(port) as forward:
        found = await forward.call(HELLO)
    assert found.status_code == 502
    assert "closed the connection before its answer was complete" in found.json()["detail"]
    assert len(connections) == 1


@pytest.mark.parametrize("is_call", [True, False])
async def test_stream_that_breaks_off_has_no_end_for_the_client(is_call: bool) -> None:
    args = HELLO | {"stream": True}
    body = {"args": args} if is_call else args
    async with (
        raw_engine(HEAD + b"b\r\ndata: 1\n\n\r\n\r\n") as (port, _),
        forwarder(port) as forward,
        forward.http.stream("POST", CHAT, json=body) as answer,
    ):
        chunks = answer.aiter_bytes()
        assert b"1" in await in_time(anext(chunks))
        with pytest.raises(httpx.RemoteProtocolError):
            await in_time(anext(chunks))


async def test_answer_that_is_too_long_is_502(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MOST_ANSWER", 100)
    async with running_double() as double, forwarder(double.port) as forward:
        double.fault(COMPLETIONS, status=200, body=f'"{"x" * 98}"', times=1)
        double.fault(COMPLETIONS, status=200, body=f'"{"x" * 99}"')
        answers = [await forward.call({"prompt": "x"}, COMPLETIONS) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 502]
    assert "longer than 100 bytes" in answers[1].json()["detail"]


async def test_path_that_is_too_long_is_414() -> None:
    """uvicorn with httptools has no bound of its own."""
    sent: list[Message] = []

    async def receive() -> Message:
        if sent:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    path = {"path": CHAT, "raw_path": CHAT.encode(), "query_string": b"a" * 65_537, "root_path": ""}
    headers = [(b"content-type", b"text/plain")]
    await build(config_for(1))({"type": "http", "method": "POST", "headers": headers, **path}, receive, send)
    assert sent[0]["status"] == 414


async def test_client_that_takes_nothing_loses_its_place() -> None:
    closed = asyncio.Event()

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
        closed.set()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    async with server, forwarder(server.sockets[0].getsockname()[1], limits=Limits(stall_seconds=0.2)) as forward:
        base = forward.http.base_url
        _, writer = await asyncio.open_connection(base.host, base.port, limit=1)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        await in_time(closed.wait())
        writer.close()


def recorded() -> list[dict[str, Any]]:
    """Return what vLLM 0.32.0 answered, where it answered a POST with JSON."""
    found = [json.loads(line) for line in RECORDINGS.read_text().splitlines()]
    return [each for each in found if each["method"] == "POST" and each["content_type"] == "application/json"]


async def test_recorded_answers_of_vllm_come_through_unchanged() -> None:
    answers = recorded()
    assert len(answers) > 10
    async with running_double() as double, forwarder(double.port) as forward:
        for each in answers:
            double.clear_faults()
            double.fault(CHAT, status=each["status"], body=each["answer"], content_type=each["content_type"])
            plain, call = await forward.http.post(CHAT, json={}), await forward.call({})
            assert (plain.status_code, plain.text) == (each["status"], each["answer"])
            assert call.status_code == each["status"]
            assert json.loads(call.json()["result"]) == json.loads(each["answer"])

"""Connections to the engine: kept, closed with the client's, and what a client sees when they break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

import engine_double
from engine_double.server import running_double
from patio_gateway.forwarder import relay
from patio_testing.model_gateway import until

from .forwarders import CHAT, COMPLETIONS, HELLO, forwarder, in_time

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
    async with running_double() as double, forwarder(double.port) as forward:
        answer = await forward.http.post(f"{CHAT}?{'a' * 60_000}", json=HELLO)
        assert answer.status_code in (200, 400)
        reader, writer = await asyncio.open_connection(forward.http.base_url.host, forward.http.base_url.port)
        writer.write(f"POST {CHAT}?{'a' * 65_536} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        assert b" 4" in (await in_time(reader.read()))[:16]
        writer.close()


def recorded() -> list[dict[str, str]]:
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

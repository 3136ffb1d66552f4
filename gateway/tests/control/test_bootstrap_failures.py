"""Envoy with the gateway's bootstrap: what clients see when pods fail, and how answers stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from patio_gateway.snapshot import Address, Model, Snapshot, Worker
from patio_testing.model_gateway import Gateway, Recorder, running_gateway, serving

COMPLETIONS = "/v1/completions"


def of_workers(*addresses: Address) -> Snapshot:
    workers = tuple(Worker(f"pod-{index}", address) for index, address in enumerate(addresses))
    return Snapshot(closed=False, models=(Model("a/m", ("m",), workers=workers),))


async def ask_often(gateway: Gateway, count: int) -> list[httpx.Response]:
    return [await gateway.ask(COMPLETIONS, {"model": "m", "prompt": f"{index}"}) for index in range(count)]


async def test_pod_that_refuses_connections_is_not_noticed() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address, running_gateway(of_workers(address, ("127.0.0.1", 9))) as gateway:
        answers = await ask_often(gateway, 20)
        lines = await gateway.logged(20)
    assert {(answer.status_code, answer.headers["x-patio-pod"]) for answer in answers} == {(200, "pod-0")}
    # It is out after its first failure: hardly a request pays for it.
    assert 1 <= sum(line["attempts"] > 1 for line in lines) <= 4


async def dies_before_its_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


async def dies_in_its_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    writer.write(b"9\r\ndata: 1\n\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()


async def test_request_of_a_pod_that_dies_before_a_byte_is_retried() -> None:
    engine = Recorder()
    dying = await asyncio.start_server(dies_before_its_answer, "127.0.0.1", 0)
    async with serving(engine.app()) as address, dying:
        dead: Address = ("127.0.0.1", dying.sockets[0].getsockname()[1])
        async with running_gateway(of_workers(address, dead)) as gateway:
            answers = await ask_often(gateway, 20)
            lines = await gateway.logged(20)
    assert {(answer.status_code, answer.headers["x-patio-pod"]) for answer in answers} == {(200, "pod-0")}
    assert any(line["attempts"] > 1 for line in lines)


async def test_stream_of_a_pod_that_dies_is_broken_off() -> None:
    dying = await asyncio.start_server(dies_in_its_answer, "127.0.0.1", 0)
    async with dying:
        dead: Address = ("127.0.0.1", dying.sockets[0].getsockname()[1])
        async with (
            running_gateway(of_workers(dead)) as gateway,
            gateway.client.stream("POST", COMPLETIONS, json={"model": "m"}) as answer,
        ):
            parts = answer.aiter_bytes()
            received = await anext(parts)
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(parts)
    assert received == b"data: 1\n\n"


@pytest.mark.parametrize("first_byte", [False, True])
async def test_stalled_pod_is_given_up_after_its_time(first_byte: bool) -> None:
    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if first_byte:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"9\r\ndata: 1\n\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(stalls, "127.0.0.1", 0) as stalled:
        address: Address = ("127.0.0.1", stalled.sockets[0].getsockname()[1])
        async with running_gateway(of_workers(address), most_silent_seconds=1) as gateway:
            if first_byte:
                with pytest.raises(httpx.RemoteProtocolError):
                    await gateway.ask(COMPLETIONS, {"model": "m"})
                return
            answer = await gateway.ask(COMPLETIONS, {"model": "m"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


async def test_pods_that_all_fail_are_503_in_openais_shape() -> None:
    async with running_gateway(of_workers(("127.0.0.1", 9))) as gateway:
        for _ in range(3):
            answer = await gateway.ask(COMPLETIONS, {"model": "m"})
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "worker_unreachable"
            assert answer.json()["error"]["type"] == "service_unavailable_error"
            assert answer.headers["retry-after"] == "1"


async def test_pod_that_comes_back_is_asked_again_at_once() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        pass
    async with running_gateway(of_workers(address)) as gateway:
        assert (await gateway.ask(COMPLETIONS, {"model": "m"})).status_code == 503
        server = await asyncio.start_server(answers_at_once, *address)
        async with server:
            assert (await gateway.ask(COMPLETIONS, {"model": "m"})).status_code == 200


async def answers_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


async def test_engines_own_error_passes_unchanged() -> None:
    async def bad_request(_: Request) -> Response:
        return JSONResponse({"error": {"message": "engine's words", "code": 400}}, 400, headers={"x-of-engine": "1"})

    engine = Recorder(bad_request)
    async with serving(engine.app()) as address, running_gateway(of_workers(address)) as gateway:
        answer = await gateway.ask(COMPLETIONS, {"model": "m"})
    assert (answer.status_code, answer.json()) == (400, {"error": {"message": "engine's words", "code": 400}})
    assert answer.headers["x-of-engine"] == "1"


async def test_pod_that_says_503_is_retried_once_on_another() -> None:
    async def busy(_: Request) -> Response:
        return JSONResponse({"error": "busy"}, 503)

    full, free = Recorder(busy), Recorder()
    async with (
        serving(full.app()) as busy_address,
        serving(free.app()) as address,
        running_gateway(of_workers(busy_address, address)) as gateway,
    ):
        answers = await ask_often(gateway, 12)
        await gateway.publish(of_workers(busy_address))
        before = len(full.received)
        alone = await gateway.ask(COMPLETIONS, {"model": "m"})
    assert {answer.status_code for answer in answers} == {200}
    assert full.received
    # What the engine says stays what the client reads.
    assert (alone.status_code, alone.json(), len(full.received) - before) == (503, {"error": "busy"}, 2)


async def test_stream_arrives_chunk_by_chunk_and_unchanged() -> None:
    steps: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def stream(_: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            while (chunk := await steps.get()) is not None:
                yield chunk

        return StreamingResponse(chunks(), media_type="text/event-stream")

    engine = Recorder(stream)
    sent = [f'data: {{"n": {n}}}\n\n'.encode() for n in range(5)] + [b"data: [DONE]\n\n"]
    async with serving(engine.app()) as address, running_gateway(of_workers(address)) as gateway:
        received = []
        steps.put_nowait(sent[0])
        async with gateway.client.stream("POST", COMPLETIONS, json={"model": "m", "stream": True}) as answer:
            parts = answer.aiter_raw()
            for index in range(len(sent)):
                # The next chunk is sent only when this one has arrived: nothing holds it back.
                received.append(await anext(parts))
                steps.put_nowait(sent[index + 1] if index + 1 < len(sent) else None)
            assert [part async for part in parts] == []
    assert received == sent


async def test_trace_of_a_request_reaches_engine_and_log() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    engine = Recorder()
    async with serving(engine.app()) as address, running_gateway(of_workers(address)) as gateway:
        await gateway.ask(COMPLETIONS, {"model": "m"}, traceparent=trace, x_request_id="mine")
        (line,) = await gateway.logged(1)
    assert engine.received[0].headers["traceparent"] == trace
    assert engine.received[0].headers["x-request-id"] == "mine"
    assert (line["trace"], line["request_id"], line["pod"], line["code"]) == (trace, "mine", "pod-0", 200)
    assert line["milliseconds"] >= line["first_byte_milliseconds"] >= 0

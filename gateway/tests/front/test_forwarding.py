"""Fallbacks: another model answers, with its own name in the body and its answer unchanged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from inference_server.ports import free_port
from patio_gateway.front.forwarding import renamed
from patio_gateway.snapshot import Client, Model, Routing, Worker
from patio_testing.deadline import DEADLINE
from patio_testing.model_gateway import Recorder, serving

from .fronts import CHAT, HELLO, error_of, front

DISABLED = Model("a/m", ("m",), can_wake=False, routing=Routing(fallbacks=("absent", "asleep", "n")))
ASLEEP = Model("a/asleep", ("asleep",))
EVENTS = b'data: {"a": 1}\n\ndata: \xff\n\ndata: [DONE]\n\n'


def other(*workers: Worker) -> Model:
    return Model("b/n", ("n",), workers=workers)


async def streamed(_: Request) -> Response:
    async def events() -> AsyncIterator[bytes]:
        for start in range(0, len(EVENTS), 7):
            yield EVENTS[start : start + 7]

    return StreamingResponse(events(), media_type="text/event-stream", headers={"x-engine": "vllm"})


async def test_fallback_answers_for_a_model_that_gets_no_worker() -> None:
    engine = Recorder(streamed)
    async with serving(engine.app()) as address, front(DISABLED, ASLEEP, other(Worker("n-0", address))) as gateway:
        answer = await gateway.ask(path=f"{CHAT}?a=%2F", x_patio_client="team-a", x_custom="kept")
    assert (answer.status_code, answer.content) == (200, EVENTS)
    assert (answer.headers["x-patio-pod"], answer.headers["x-patio-reason"]) == ("n-0", "fallback n")
    assert answer.headers["x-engine"] == "vllm"
    (received,) = engine.received
    assert json.loads(received.body) == HELLO | {"model": "n"}
    assert received.path == CHAT
    assert received.headers["x-custom"] == "kept"
    assert not [name for name in received.headers if name.startswith("x-patio-")]


async def test_every_request_to_a_fallback_has_a_new_connection() -> None:
    ports: list[int] = []

    async def answer(request: Request) -> Response:
        assert request.client is not None
        ports.append(request.client.port)
        return JSONResponse({})

    engine = Recorder(answer)
    async with serving(engine.app()) as address, front(DISABLED, other(Worker("n-0", address))) as gateway:
        answers = [await gateway.ask() for _ in range(3)]
    assert [each.status_code for each in answers] == [200] * 3
    assert len(set(ports)) == 3


async def test_error_of_a_fallback_passes_with_its_status_and_words() -> None:
    async def refuse(_: Request) -> Response:
        return JSONResponse({"object": "error", "message": "too long"}, 400)

    engine = Recorder(refuse)
    async with serving(engine.app()) as address, front(DISABLED, other(Worker("n-0", address))) as gateway:
        answer = await gateway.ask()
    assert (answer.status_code, answer.json()) == (400, {"object": "error", "message": "too long"})


async def test_worker_that_takes_no_connection_is_followed_by_another() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        dead = Worker("n-dead", ("127.0.0.1", free_port()))
        async with front(DISABLED, other(dead, Worker("n-0", address))) as gateway:
            assert (await gateway.ask()).headers["x-patio-pod"] == "n-0"
            gateway.publish(DISABLED, other(dead))
            answer = await gateway.ask()
    assert (answer.status_code, error_of(answer)["code"]) == (503, "worker_unreachable")


async def test_fallback_that_the_client_may_not_use_is_passed_over() -> None:
    async with front() as gateway:
        clients = (Client("team-a", "sk-a", endpoints=("a/*",)),)
        gateway.publish(DISABLED, other(Worker("n-0", ("127.0.0.1", 1))), closed=True, clients=clients)
        answer = await gateway.ask(x_patio_client="team-a")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "model_disabled")


async def test_client_that_hangs_up_ends_the_fallback_s_stream() -> None:
    ended = asyncio.Event()

    async def endless(_: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"data: {}\n\n"
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        return StreamingResponse(events(), media_type="text/event-stream")

    engine = Recorder(endless)
    async with (
        serving(engine.app()) as address,
        front(DISABLED, other(Worker("n-0", address))) as gateway,
        serving(gateway.app) as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client,
    ):
        async with client.stream("POST", CHAT, json=HELLO, headers={"x-patio-model": "m"}) as answer:
            async for _ in answer.aiter_raw():
                break
        async with asyncio.timeout(DEADLINE):
            await ended.wait()


def test_body_is_renamed_only_where_it_is_an_object() -> None:
    assert json.loads(renamed(b'{"model": "a", "x": 1.5e3}', "b") or b"") == {"model": "b", "x": 1500.0}
    assert renamed(b"[]", "b") is None
    assert renamed(b"{", "b") is None

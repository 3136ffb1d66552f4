"""Envoy with the gateway's bootstrap: what the front holds, Envoy sends again itself."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from patio_gateway.snapshot import Client, Model, Snapshot, Worker
from patio_testing.model_gateway import Gateway, Recorder, running_gateway, serving, until

CHAT = "/v1/chat/completions"
CLIENT = Client("team-a", "sk-team-a-0123456789", requests_per_minute=2)


def redirected(request: Request) -> Response:
    location = f"http://{request.headers['host']}{request.url.path}"
    return Response(status_code=307, headers={"location": location, "x-patio-held": "1"})


@pytest.mark.parametrize("size", [10, 6_000_000])
async def test_held_request_is_sent_whole_to_the_new_pod(size: int) -> None:
    engine = Recorder()
    text = json.dumps({"messages": "x" * size, "model": "sql"}).encode()
    async with serving(engine.app()) as address, running_gateway() as gateway:

        async def wake(request: Request) -> Response:
            await gateway.publish(awake(True))
            return redirected(request)

        def awake(has_pod: bool) -> Snapshot:
            workers = (Worker("m-0", address, frozenset({"sql"})),) if has_pod else ()
            return Snapshot(models=(Model("a/m", ("m",), adapters=("sql",), workers=workers),), clients=(CLIENT,))

        gateway.front.answer = wake
        await gateway.publish(awake(False))
        headers = {"authorization": f"Bearer {CLIENT.key}", "content-type": "application/json"}
        answer = await gateway.client.post(CHAT, content=text, headers=headers)
        again = await gateway.client.post(CHAT, content=text, headers=headers)
    assert (answer.status_code, answer.headers["x-patio-pod"]) == (200, "m-0")
    assert hashlib.sha256(engine.received[0].body).digest() == hashlib.sha256(text).digest()
    assert engine.received[0].headers["x-patio-client"] == "team-a"
    # It counted once against the client's two requests a minute, though it went through Envoy twice.
    assert again.status_code == 200
    assert len(gateway.front.received) == 1


async def held_for_ever(gateway: Gateway, model: Model) -> Response:
    async def again(request: Request) -> Response:
        return redirected(request)

    gateway.front.answer = again
    await gateway.publish(Snapshot(closed=False, models=(model,)))
    await gateway.ask(CHAT, {"model": model.names[0]})
    return Response()


async def test_request_is_sent_back_ten_times_at_most() -> None:
    async with running_gateway() as gateway:
        await held_for_ever(gateway, Model("a/m", ("m",)))
        assert len(gateway.front.received) == 11


async def test_last_word_of_the_front_is_not_asked_for_twice() -> None:
    async def too_late(_: Request) -> Response:
        body = {"error": {"message": "The model is loading.", "code": "model_starting"}}
        return JSONResponse(body, 503, headers={"x-envoy-ratelimited": "true", "retry-after": "7"})

    async with running_gateway(Snapshot(closed=False, models=(Model("a/m", ("m",)),))) as gateway:
        gateway.front.answer = too_late
        answer = await gateway.ask(CHAT, {"model": "m"})
        assert len(gateway.front.received) == 1
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["error"]["code"] == "model_starting"
    assert "x-envoy-ratelimited" not in answer.headers


async def test_client_that_hangs_up_ends_the_held_request() -> None:
    ended = asyncio.Event()

    async def hold(request: Request) -> Response:
        message = await request.receive()
        while message["type"] != "http.disconnect":
            message = await request.receive()
        ended.set()
        return Response(status_code=503)

    async with running_gateway(Snapshot(closed=False, models=(Model("a/m", ("m",)),))) as gateway:
        gateway.front.answer = hold
        asking = asyncio.create_task(gateway.ask(CHAT, {"model": "m"}))
        await until(lambda: gateway.front.received, "the front has the request")
        asking.cancel()
        async with asyncio.timeout(60):
            await ended.wait()

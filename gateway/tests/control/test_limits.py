"""How many requests and tokens a minute a client may send, in a real Envoy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from patio_gateway.control.limits import limits
from patio_gateway.snapshot import Client, Model, Snapshot, Worker
from patio_testing.model_gateway import Recorder, running_gateway, serving

FEW = Client("few", "sk-few-0123456789", requests_per_minute=3)
MANY = Client("many", "sk-many-0123456789")


async def test_client_above_its_limit_is_429_and_others_not() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(models=(model,), clients=(FEW, MANY))) as gateway:
            codes = {}
            for client in (FEW, MANY):
                answers = [
                    await gateway.ask("/v1/completions", {"model": "m"}, authorization=f"Bearer {client.key}")
                    for _ in range(5)
                ]
                codes[client.name] = [answer.status_code for answer in answers]
                last = answers[-1] if client is FEW else None
                if last is not None:
                    assert last.json()["error"]["code"] == "rate_limit_exceeded"
                    assert int(last.headers["retry-after"]) > 0
    assert codes == {"few": [200, 200, 200, 429, 429], "many": [200] * 5}


async def test_limit_outlives_a_change_of_pods() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        workers = (Worker("m-0", address),)
        async with running_gateway() as gateway:
            codes = []
            for turn in range(5):
                model = Model("a/m", ("m",), workers=workers if turn else (*workers, Worker("m-1", ("127.0.0.1", 9))))
                await gateway.publish(Snapshot(models=(model,), clients=(FEW,)))
                answer = await gateway.ask("/v1/completions", {"model": "m"}, authorization=f"Bearer {FEW.key}")
                codes.append(answer.status_code)
    assert codes == [200, 200, 200, 429, 429]


async def test_requests_at_once_do_not_pass_a_limit() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(models=(model,), clients=(FEW,))) as gateway:
            requests = [
                gateway.ask("/v1/completions", {"model": "m"}, authorization=f"Bearer {FEW.key}") for _ in range(20)
            ]
            codes = [answer.status_code for answer in await asyncio.gather(*requests)]
    assert (codes.count(200), codes.count(429)) == (3, 17)


def test_open_gateway_has_no_limits() -> None:
    assert limits(Snapshot(clients=(FEW,), closed=False))["descriptors"] == []
    assert len(limits(Snapshot(clients=(FEW, MANY)))["descriptors"]) == 1


def with_usage(tokens: int, streams: bool) -> Recorder:
    async def answer(_: Request) -> Response:
        usage = {"prompt_tokens": tokens - 1, "total_tokens": tokens, "completion_tokens": 1}
        if not streams:
            return JSONResponse({"choices": [], "usage": usage, "metrics": None})

        async def events() -> AsyncIterator[str]:
            for number in range(3):
                yield f'data: {{"choices": [{number}]}}\n\n'
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return Recorder(answer)


@pytest.mark.parametrize("streams", [False, True])
async def test_client_above_its_tokens_is_429_until_they_refill(streams: bool) -> None:
    client = Client("few", "sk-few-0123456789", tokens_per_minute=600)
    engine = with_usage(400, streams)
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(models=(model,), clients=(client, MANY))) as gateway:

            async def ask(client_of_it: Client) -> int:
                answer = await gateway.ask(
                    "/v1/completions", {"model": "m"}, authorization=f"Bearer {client_of_it.key}"
                )
                assert "x-patio-limited" not in answer.headers
                return answer.status_code

            # The first takes 400. The second is charged for it, and takes 400 more than there are then.
            assert [await ask(client) for _ in range(4)] == [200, 200, 429, 429]
            assert await ask(MANY) == 200
            lines = await gateway.logged(5)
    assert [(line["tokens_in"], line["tokens_out"]) for line in lines] == [(399, 1)] * 2 + [(None, None)] * 2 + [
        (399, 1)
    ]


async def test_answer_larger_than_a_minutes_tokens_is_paid_off() -> None:
    client = Client("few", "sk-few-0123456789", tokens_per_minute=60_000)
    engine = with_usage(90_000, streams=False)
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(models=(model,), clients=(client,))) as gateway:

            async def ask() -> int:
                answer = await gateway.ask("/v1/completions", {"model": "m"}, authorization=f"Bearer {client.key}")
                return answer.status_code

            assert await ask() == 200
            # It may have to wait for the bucket to be full, but not for ever: 1,000 tokens come back in a second.
            codes = [0]
            async with asyncio.timeout(60):
                while codes[-1] != 200:
                    codes.append(await ask())
    assert len(engine.received) == 2


async def test_stream_without_usage_is_charged_by_its_events() -> None:
    client = Client("few", "sk-few-0123456789", tokens_per_minute=100)

    async def answer(_: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            for number in range(150):
                yield f'data: {{"choices": [{number}]}}\n\n'
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    engine = Recorder(answer)
    async with serving(engine.app()) as address:
        model = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(models=(model,), clients=(client,))) as gateway:
            codes = []
            for _ in range(2):
                answered = await gateway.ask("/v1/completions", {"model": "m"}, authorization=f"Bearer {client.key}")
                codes.append(answered.status_code)
    assert codes == [200, 429]

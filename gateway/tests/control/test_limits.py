"""How many requests a minute a client may send, in a real Envoy."""

from __future__ import annotations

import asyncio

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
            asked = [
                gateway.ask("/v1/completions", {"model": "m"}, authorization=f"Bearer {FEW.key}") for _ in range(20)
            ]
            codes = [answer.status_code for answer in await asyncio.gather(*asked)]
    assert (codes.count(200), codes.count(429)) == (3, 17)


def test_open_gateway_has_no_limits() -> None:
    assert limits(Snapshot(clients=(FEW,), closed=False))["descriptors"] == []
    assert len(limits(Snapshot(clients=(FEW, MANY)))["descriptors"]) == 1

"""What is replaced while requests are on their way: they go on as they began, and the next ones are of the new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from patio_gateway.snapshot import Address, Client, Model, Snapshot, Worker
from patio_testing.model_gateway import Gateway, Recorder, running_gateway, serving, until

CLIENT = Client("team-a", "sk-team-a-0123456789")
PATH = "/v1/completions"
KEY = f"Bearer {CLIENT.key}"


@dataclass
class SlowStream:
    """An engine whose stream a test steps."""

    steps: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)

    async def answer(self, _: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            while (chunk := await self.steps.get()) is not None:
                yield chunk

        return StreamingResponse(chunks(), media_type="text/event-stream")


def a_snapshot(*addresses: Address, clients: tuple[Client, ...] = (CLIENT,)) -> Snapshot:
    workers = tuple(Worker(f"pod-{port}", (host, port)) for host, port in addresses)
    return Snapshot(models=(Model("a/m", ("m",), workers=workers),), clients=clients)


async def read_while(gateway: Gateway, stream: SlowStream, *during: Snapshot) -> bytes:
    """Read a stream, and publish one snapshot after another between its chunks."""
    received = b""
    stream.steps.put_nowait(b"data: 0\n\n")
    async with gateway.client.stream("POST", PATH, json={"model": "m"}, headers={"authorization": KEY}) as answer:
        parts = answer.aiter_raw()
        received += await anext(parts)
        for number, snapshot in enumerate(during, 1):
            await gateway.publish(snapshot)
            stream.steps.put_nowait(f"data: {number}\n\n".encode())
            received += await anext(parts)
        stream.steps.put_nowait(None)
        async for part in parts:
            received += part
    return received


async def test_stream_of_a_pod_that_leaves_goes_on() -> None:
    stream, other = SlowStream(), Recorder()
    async with (
        serving(Recorder(stream.answer).app()) as leaving,
        serving(other.app()) as staying,
        running_gateway(a_snapshot(leaving)) as gateway,
    ):
        during = (a_snapshot(leaving, staying), a_snapshot(staying), a_snapshot())
        received = await read_while(gateway, stream, *during)
        await gateway.publish(a_snapshot(staying))
        answer = await gateway.ask(PATH, {"model": "m"}, authorization=KEY)
    assert received == b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert answer.headers["x-patio-pod"] == f"pod-{staying[1]}"


async def test_stream_outlives_its_model_and_its_key() -> None:
    stream = SlowStream()
    async with serving(Recorder(stream.answer).app()) as address, running_gateway(a_snapshot(address)) as gateway:
        received = await read_while(gateway, stream, a_snapshot(address, clients=()), Snapshot())
        assert received == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        assert (await gateway.ask(PATH, {"model": "m"}, authorization=KEY)).status_code == 401


async def test_upload_outlives_a_new_program() -> None:
    engine = Recorder()
    more: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (part := await more.get()) is not None:
            yield part

    async with serving(engine.app()) as address, running_gateway(a_snapshot(address)) as gateway:
        sending = asyncio.create_task(
            gateway.client.post(
                PATH, content=body(), headers={"authorization": KEY, "content-type": "application/json"}
            )
        )
        more.put_nowait(b'{"prompt": "')

        async def is_active() -> bool:
            return await gateway.admin.active_requests() == 1

        await until(is_active, "Envoy has the request")
        await gateway.publish(a_snapshot(address, clients=(CLIENT, Client("b", "sk-other-0123456789"))))
        more.put_nowait(b'x", "model": "m"}')
        more.put_nowait(None)
        assert (await sending).status_code == 200
    assert engine.received[0].body == b'{"prompt": "x", "model": "m"}'


async def test_no_request_is_lost_while_everything_changes() -> None:
    engine = Recorder()
    async with (
        serving(engine.app()) as first,
        serving(engine.app()) as second,
        running_gateway(a_snapshot(first)) as gateway,
    ):
        changing = True

        async def ask() -> list[int]:
            codes = []
            while changing:
                codes.append((await gateway.ask(PATH, {"model": "m"}, authorization=KEY)).status_code)
            return codes

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for turn in range(30):
            clients = (CLIENT, Client(f"client-{turn}", f"sk-{turn}-0123456789"))
            await gateway.publish(a_snapshot((first, second)[turn % 2], clients=clients))
        changing = False
        codes = [code for part in await asyncio.gather(*asking) for code in part]
    assert len(codes) > 30
    assert set(codes) == {200}

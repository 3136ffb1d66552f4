"""The front behind a real Envoy: held requests go to the worker when it is ready, and come back whole."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from inference_server.ports import free_port
from patio_gateway.app import Knowledge
from patio_gateway.front.app import FrontApp, build
from patio_gateway.snapshot import Client, Model, QueueLimits, Snapshot, Start, StartPhase, Worker
from patio_testing.deadline import DEADLINE
from patio_testing.model_gateway import Gateway, Recorder, running_gateway, serving, until

from .fronts import CHAT, HELLO, error_of

CLIENT = Client("team-a", "sk-team-a-0123456789")
KEY = {"authorization": f"Bearer {CLIENT.key}"}
ASLEEP = Model("a/m", ("m",), adapters=("sql",), queue=QueueLimits(per_worker=100))


async def streamed(request: Request) -> Response:
    async def events() -> AsyncIterator[bytes]:
        for number in range(20):
            yield f'data: {{"n": {number}}}\n\n'.encode()
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def snapshot(*models: Model) -> Snapshot:
    return Snapshot(models=models, clients=(CLIENT,))


@asynccontextmanager
async def control(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """Return what asks the front on its socket, as control does."""
    transport = httpx.AsyncHTTPTransport(uds=gateway.listening.front_socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://front", timeout=DEADLINE) as client:
        yield client


async def held(gateway: Gateway, count: int) -> None:
    """Wait until the front holds so many requests."""
    async with control(gateway) as client:

        async def reached() -> bool:
            found = (await client.get("/demand")).json()["endpoints"]
            return sum(each["held"] for each in found) == count

        await until(reached, f"{count} requests are held")


async def test_five_hundred_requests_wait_and_none_is_lost() -> None:
    engine = Recorder(streamed)
    bodies = [json.dumps(HELLO | {"user": f"u-{number}"}).encode() for number in range(500)]
    async with serving(engine.app()) as address, running_gateway(snapshot(ASLEEP), make_front=build) as gateway:

        async def ask(body: bytes) -> bytes:
            answer = await gateway.client.post(CHAT, content=body, headers=KEY)
            assert answer.status_code == 200, answer.text
            return answer.content

        tasks = [asyncio.create_task(ask(body)) for body in bodies]
        await held(gateway, 500)
        await gateway.publish(snapshot(dataclasses.replace(ASLEEP, workers=(Worker("m-0", address),))))
        answers = await asyncio.gather(*tasks)
    assert all(answer.endswith(b'data: {"n": 19}\n\ndata: [DONE]\n\n') for answer in answers)
    digests = sorted(hashlib.sha256(each.body).digest() for each in engine.received)
    assert digests == sorted(hashlib.sha256(body).digest() for body in bodies)


async def test_client_that_hangs_up_behind_envoy_frees_its_place() -> None:
    async with running_gateway(snapshot(ASLEEP), make_front=build) as gateway:
        task = asyncio.create_task(gateway.client.post(CHAT, json=HELLO, headers=KEY))
        await held(gateway, 1)
        task.cancel()
        await held(gateway, 0)


async def test_gateway_that_stops_answers_what_waits() -> None:
    made: list[FrontApp] = []

    def make_front(knowledge: Knowledge) -> FrontApp:
        made.append(build(knowledge))
        return made[0]

    async with running_gateway(snapshot(ASLEEP), make_front=make_front) as gateway:
        tasks = [asyncio.create_task(gateway.client.post(CHAT, json=HELLO, headers=KEY)) for _ in range(3)]
        await held(gateway, 3)
        made[0].stop_holding()
        answers = [*await asyncio.gather(*tasks), await gateway.client.post(CHAT, json=HELLO, headers=KEY)]
    assert [(answer.status_code, error_code(answer)) for answer in answers] == [(503, "gateway_stopping")] * 4
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}


async def test_full_queue_is_429_and_says_when_to_come_back() -> None:
    small = dataclasses.replace(ASLEEP, queue=QueueLimits(max=1), start=Start(StartPhase.LOADING))
    async with running_gateway(snapshot(small), make_front=build) as gateway:
        waiting = asyncio.create_task(gateway.client.post(CHAT, json=HELLO, headers=KEY))
        await held(gateway, 1)
        answer = await gateway.client.post(CHAT, json=HELLO, headers=KEY)
        waiting.cancel()
    assert (answer.status_code, error_code(answer)) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) > 0


async def test_killed_front_leaves_models_with_workers_alone() -> None:
    engine = Recorder(streamed)
    async with serving(engine.app()) as address:
        ready = dataclasses.replace(ASLEEP, workers=(Worker("m-0", address),))
        async with running_gateway(snapshot(ready), make_front=build) as gateway:
            socket = gateway.listening.front_socket
            with front_in_its_own_process(socket) as process:
                await until(lambda: os.path.exists(socket), "the front in a process of its own serves")
                process.kill()
                process.wait()
                answers = [await gateway.client.post(CHAT, json=HELLO, headers=KEY) for _ in range(5)]
                unknown = await gateway.client.post(CHAT, json=HELLO | {"model": "nobody"}, headers=KEY)
    assert {(answer.status_code, answer.headers["x-patio-pod"]) for answer in answers} == {(200, "m-0")}
    assert (unknown.status_code, error_code(unknown)) == (503, "worker_unreachable")


async def test_front_that_is_killed_ends_the_waits() -> None:
    async with running_gateway(snapshot(ASLEEP), make_front=build) as gateway:
        socket = gateway.listening.front_socket
        with front_in_its_own_process(socket) as process:
            await until(lambda: os.path.exists(socket), "the front in a process of its own serves")
            waiting = asyncio.create_task(gateway.client.post(CHAT, json=HELLO, headers=KEY))
            await held(gateway, 1)
            process.kill()
            answer = await waiting
    assert (answer.status_code, error_code(answer)) == (503, "worker_unreachable")


@contextmanager
def front_in_its_own_process(socket: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve at the place of the front of this process."""
    os.unlink(socket)
    process = subprocess.Popen([sys.executable, "-c", FRONT, socket])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


FRONT = """
import sys
import uvicorn
from patio_gateway.app import Knowledge
from patio_gateway.front.app import build
from patio_gateway.front.server import config
from patio_gateway.snapshot import Model, Snapshot
knowledge = Knowledge()
knowledge.publish(Snapshot(models=(Model("a/m", ("m",)),)))
uvicorn.Server(config(build(knowledge), sys.argv[1])).run()
"""


def error_code(answer: httpx.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


async def test_prometheus_reads_the_fronts_metrics() -> None:
    address = ("127.0.0.1", free_port())
    async with running_gateway(snapshot(ASLEEP), make_front=build, metrics=address) as gateway:
        url = f"http://{address[0]}:{address[1]}/front/metrics"
        answer = await gateway.client.get(url, headers={"x-patio-admitted": "1"})
        others = [(await gateway.client.get(f"{url}{more}")).status_code for more in ("/", "/../demand", "x")]
    assert 'patio_gateway_queue_length{endpoint="a/m"} 0.0' in answer.text
    assert others == [404, 404, 404]


async def test_last_word_of_the_front_reaches_the_client_whole() -> None:
    slow = dataclasses.replace(ASLEEP, queue=QueueLimits(timeout=0.05), start=Start(StartPhase.DOWNLOADING, 34))
    async with running_gateway(snapshot(slow), make_front=build) as gateway:
        late = await gateway.client.post(CHAT, json=HELLO, headers=KEY)
        unknown = await gateway.client.post(CHAT, json=HELLO | {"model": "nobody"}, headers=KEY)
        invalid = await gateway.client.post(CHAT, content=b"{", headers=KEY)
        async with control(gateway) as client:
            metrics = (await client.get("/metrics")).text
    assert (late.status_code, late.json()["error"]["code"]) == (503, "model_start_timeout")
    assert "Downloading 34 %" in late.json()["error"]["message"]
    assert "retry-after" in late.headers
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")
    assert (invalid.status_code, error_of(invalid)["code"]) == (400, "invalid_request_body")
    # Envoy did not ask it twice.
    assert 'patio_gateway_queue_seconds_count{endpoint="a/m",outcome="late"} 1.0' in metrics


async def test_worker_that_envoy_loses_again_ends_in_a_last_word() -> None:
    async with running_gateway(snapshot(ASLEEP), make_front=build) as gateway:
        # The front knows a worker that Envoy does not have: each round comes back.
        gateway.knowledge.publish(snapshot(dataclasses.replace(ASLEEP, workers=(Worker("m-0", ("127.0.0.1", 1)),))))
        answer = await gateway.client.post(CHAT, json=HELLO, headers=KEY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_unreachable")


async def test_clients_get_their_models_and_nothing_of_control() -> None:
    async with running_gateway(snapshot(ASLEEP), make_front=build) as gateway:
        models = await gateway.client.get("/v2/models", headers=KEY)
        shown = await gateway.client.get("/overview", headers=KEY)
        codes = [(await gateway.client.get(path, headers=KEY)).status_code for path in ("/demand", "/metrics")]
        without_key = [(await gateway.client.get(path)).status_code for path in ("/overview", "/demand", "/healthz")]
    assert [each["id"] for each in models.json()["data"]] == ["m", "sql"]
    assert shown.json()["client"] == "team-a"
    assert codes == [404, 404]
    assert without_key == [401, 401, 200]

"""The program of requests, in a real Envoy: which of several pods gets a request."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from patio_gateway.snapshot import Address, Model, Routing, Snapshot, Worker
from patio_testing.model_gateway import Gateway, Recorder, running_gateway, serving, until

CHAT = "/v1/chat/completions"
PODS = 4


def of_pods(addresses: list[Address], routing: Routing | None = None) -> Snapshot:
    has = frozenset({"a-lora", "another"})
    workers = tuple(Worker(f"pod-{index}", address, has) for index, address in enumerate(addresses))
    model = Model("a/m", ("m",), adapters=tuple(has), workers=workers, routing=routing or Routing())
    return Snapshot(closed=False, models=(model,))


async def pods(stack: AsyncExitStack, engine: Recorder) -> list[Address]:
    return [await stack.enter_async_context(serving(engine.app())) for _ in range(PODS)]


async def pod_of(gateway: Gateway, body: dict[str, object], path: str = CHAT, **headers: str) -> tuple[str, str]:
    answer = await gateway.ask(path, body, **headers)
    assert answer.status_code == 200
    return answer.headers["x-patio-pod"], answer.headers["x-patio-reason"]


def a_chat(system: str, *turns: str, model: str = "m") -> dict[str, object]:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(turns)]
    return {"messages": [{"role": "system", "content": system}, *messages], "model": model}


async def test_conversation_stays_on_its_pod_and_others_spread() -> None:
    engine = Recorder()
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(of_pods(await pods(stack, engine))))
        chosen = set()
        for topic in range(24):
            start = ("You help.", f"Question {topic}")
            turns = [
                await pod_of(gateway, a_chat(*start)),
                await pod_of(gateway, a_chat(*start, "Answer", "And then?")),
                await pod_of(gateway, a_chat(*start, "Answer", "And then?", "Nothing", "Why?") | {"stream": False}),
            ]
            assert len(set(turns)) == 1, topic
            chosen.add(turns[0])
    assert chosen == {(f"pod-{index}", "prefix") for index in range(PODS)}


async def test_long_prompts_with_one_beginning_share_a_pod() -> None:
    engine = Recorder()
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(of_pods(await pods(stack, engine))))
        shared = "All that follows is about ships. " * 100
        for path, field in ((CHAT, "messages"), ("/v1/completions", "prompt"), ("/v1/responses", "input")):
            found = {
                await pod_of(gateway, {"temperature": 0.1, field: f"{shared} {number}", "model": "m"}, path)
                for number in range(8)
            }
            assert len(found) == 1, path


async def test_session_comes_before_the_prompt() -> None:
    engine = Recorder()
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(of_pods(await pods(stack, engine))))
        chosen = set()
        for session in range(24):
            pods_of_session = {
                await pod_of(gateway, a_chat(f"{number}", f"{number}"), x_session_id=f"session-{session}")
                for number in range(4)
            }
            assert len(pods_of_session) == 1
            chosen |= pods_of_session
    assert chosen == {(f"pod-{index}", "session") for index in range(PODS)}


async def test_adapter_is_a_part_of_the_prefix() -> None:
    engine = Recorder()
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(of_pods(await pods(stack, engine))))
        differ = 0
        for number in range(24):
            chosen = [
                (await pod_of(gateway, a_chat("", f"{number}", model=model)))[0] for model in ("m", "a-lora", "another")
            ]
            differ += len(set(chosen)) > 1
    assert differ > 12


async def test_two_gateways_choose_the_same_pod() -> None:
    engine = Recorder()
    async with AsyncExitStack() as stack:
        addresses = await pods(stack, engine)
        first = await stack.enter_async_context(running_gateway(of_pods(addresses)))
        second = await stack.enter_async_context(running_gateway(of_pods(addresses[::-1])))
        where = []
        for gateway in (first, second):
            ports = []
            for number in range(24):
                answer = await gateway.ask(CHAT, a_chat("", f"{number}"))
                ports.append(answer.headers["x-patio-pod"])
            where.append(ports)
    # The second has them by other names, in the opposite order.
    assert where[0] == [f"pod-{PODS - 1 - int(name.removeprefix('pod-'))}" for name in where[1]]


async def test_busy_pod_gives_its_prefix_to_another() -> None:
    release = asyncio.Event()

    async def wait(_: Request) -> Response:
        await release.wait()
        return JSONResponse({})

    engine = Recorder(wait)
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(of_pods(await pods(stack, engine))))
        asking = []
        for _ in range(40):
            asking.append(asyncio.create_task(pod_of(gateway, a_chat("", "the same"))))
            # Envoy counts a request of a pod from when it has a connection to it.
            await until(lambda: len(engine.received) == len(asking), "the request is at an engine")
        release.set()
        counts = Counter(name for name, _ in await asyncio.gather(*asking))
    # The mean is ten, and Envoy takes a pod below 1.25 times the mean, rounded up. The favourite has all of it.
    assert max(counts.values()) <= 14
    assert sum(counts.values()) == 40


async def test_request_without_a_prompt_goes_to_the_least_busy() -> None:
    release = asyncio.Event()

    async def wait(_: Request) -> Response:
        await release.wait()
        return JSONResponse({})

    engine = Recorder(wait)
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(of_pods(await pods(stack, engine))))
        body: dict[str, object] = {"input": "the same", "model": "m"}
        asking = []
        for _ in range(40):
            asking.append(asyncio.create_task(pod_of(gateway, body, "/v1/embeddings")))
            # Envoy counts a request of a pod from when it has a connection to it.
            await until(lambda: len(engine.received) == len(asking), "the request is at an engine")
        release.set()
        found = await asyncio.gather(*asking)
    counts = Counter(name for name, _ in found)
    assert {reason for _, reason in found} == {"least-request"}
    assert max(counts.values()) <= 14
    assert len(counts) == PODS


async def test_model_without_prefix_routing_spreads_one_prompt() -> None:
    engine = Recorder()
    async with AsyncExitStack() as stack:
        addresses = await pods(stack, engine)
        routing = Routing(prefix_aware=False, session_header="X-Mine")
        gateway = await stack.enter_async_context(running_gateway(of_pods(addresses, routing)))
        spread = {await pod_of(gateway, a_chat("", "the same")) for _ in range(40)}
        kept = {await pod_of(gateway, a_chat("", "the same"), x_mine="me") for _ in range(8)}
    assert {reason for _, reason in spread} == {"least-request"}
    assert len(spread) == PODS
    assert len(kept) == 1

"""What answers at a pod's address and is no sidecar: it costs a bounded amount, and leads the operator nowhere."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import random
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiohttp import web

from patio_operator.loraadapters import sidecar_watch as watch_module
from patio_operator.loraadapters.planner.observation import Answer, Observation
from patio_operator.loraadapters.sidecar_answer import read_answer
from patio_operator.loraadapters.sidecar_watch import SidecarWatch, address_problem
from patio_operator.pods.engine_pod import EnginePod, decode_engine_pod
from patio_testing.deadline import DEADLINE
from patio_testing.operator.waiting import until

PATH = "/v1/lora_adapters"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A server on a free port that has everything answered by this."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def following(port: int, ip: str = "127.0.0.1", *, ask_loopback: bool = True) -> AsyncIterator[SidecarWatch]:
    watch = SidecarWatch(lambda _: None, lambda: datetime.now(UTC), random.Random(0), ask_loopback=ask_loopback)
    watch.follow("team", [EnginePod("team", "evil", "u", "node-a", {}, ip, port)])
    try:
        yield watch
    finally:
        await watch.close()


async def problem(watch: SidecarWatch, *, but: str = "has not answered yet") -> Observation:
    """What is known of the sidecar once it is known not to answer."""

    def seen() -> Observation:
        return watch.seen("team")["u"]

    await until("a problem", lambda: but not in seen().problem and seen().answer is None, seen)
    return seen()


def text(**changes: object) -> str:
    return json.dumps({"revision": "r-1", "engine": "vllm", "engine_ready": True, "adapters": []} | changes)


async def test_redirect_of_a_false_sidecar_is_not_followed() -> None:
    reached: list[str] = []

    async def internal(request: web.Request) -> web.Response:
        reached.append(request.path_qs)
        return web.Response(text="internal")

    async with serving(internal) as elsewhere:

        async def redirecting(_: web.Request) -> web.Response:
            raise web.HTTPFound(f"http://127.0.0.1:{elsewhere}/latest/meta-data/iam/")

        async with serving(redirecting) as port, following(port) as watch:
            assert "302, and redirects are not followed" in (await problem(watch)).problem
    assert reached == []


async def test_compressed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(b"\0" * 300 * 2**20, 1)

    async def packed(_: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    async with serving(packed) as port:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with following(port) as watch:
            assert "compressed" in (await problem(watch)).problem
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


async def test_answer_without_end_is_read_up_to_a_limit() -> None:
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            written += 65536

    async with serving(endless) as port, following(port) as watch:
        assert "longer than" in (await problem(watch)).problem
    # What is in the buffers of both ends comes on top, for each of the first looks.
    assert written < 20 * watch_module.MOST_BYTES


async def test_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "ANSWER_SECONDS", 0.3)

    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    async with serving(dripping) as port, following(port) as watch:
        assert "no answer within" in (await problem(watch)).problem


@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 5000, "null", "[]", '{"revision": 1}', "1" * 10_000, ""])
async def test_what_is_no_answer_of_a_sidecar_is_silence(body: str) -> None:
    async def answering(_: web.Request) -> web.Response:
        return web.Response(text=body)

    async with serving(answering) as port, following(port) as watch:
        assert "its answer is not one of the sidecar's API" in (await problem(watch)).problem


async def test_long_polls_answered_at_once_do_not_spin() -> None:
    poll_times: list[float] = []

    async def at_once(_: web.Request) -> web.Response:
        poll_times.append(time.monotonic())
        return web.Response(text=text(revision=f"r-{len(poll_times)}"))

    async with serving(at_once) as port, following(port) as watch:
        await until("looks", lambda: len(poll_times) >= watch_module.QUICK_ANSWERS + 9, lambda: len(poll_times))
        assert watch.seen("team")["u"].answer is not None
    # Ten at once, then after pauses that grow to a second.
    assert poll_times[watch_module.QUICK_ANSWERS + 8] - poll_times[0] >= 3.0


@pytest.mark.parametrize("readable", [True, False])
async def test_slow_answers_together_get_a_small_share_of_the_time(
    readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, pods = watch_module._read, 5
    read_at: list[float] = []

    def slowly(body: bytes) -> Answer:
        read_at.append(time.monotonic())
        until = time.thread_time() + 0.025
        while time.thread_time() < until:
            pass
        if not readable:
            raise watch_module.NoAnswerError("it answered with something else")
        return read(body)

    async def at_once(_: web.Request) -> web.Response:
        return web.Response(text=text(revision=f"r-{len(read_at)}"))

    monkeypatch.setattr(watch_module, "_read", slowly)
    begun = time.monotonic()
    async with serving(at_once) as port, following(port) as watch:
        watch.follow(
            "team", [EnginePod("team", f"evil-{n}", f"u-{n}", "node-a", {}, "127.0.0.1", port) for n in range(pods)]
        )
        await until("answers read", lambda: len(read_at) >= pods + 10, lambda: len(read_at))
    # Each once, and then together one in 20 times 25 ms.
    assert read_at[pods + 9] - begun >= 4.0


@pytest.mark.parametrize("part", ["[],", '{"a":1},', "1,", '"",'])
def test_answer_of_millions_of_parts_is_not_decoded(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patio_operator.loraadapters.sidecar_answer.from_json", None)
    body = text(more=[]).replace("[]}", f"[{part * (watch_module.MOST_BYTES // len(part))}1]}}")
    with pytest.raises(ValueError, match="not an answer"):
        read_answer(body.encode())


@pytest.mark.parametrize(
    "ip",
    [
        *("127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "fe80::1"),
        *("0.0.0.0", "::", "224.0.0.1", "ff02::1", "localhost", "10.0.0.1@127.0.0.1", ""),
    ],
)
def test_address_that_is_no_pods_is_not_polled(ip: str) -> None:
    assert address_problem(ip)


@pytest.mark.parametrize("ip", ["10.0.0.1", "192.168.3.4", "100.64.0.1", "fd00::7", "2001:db8::1"])
def test_address_of_a_pods_network_is_polled(ip: str) -> None:
    assert address_problem(ip) is None


async def test_loopback_pod_is_reported_as_not_polled() -> None:
    requests: list[str] = []

    async def answering(request: web.Request) -> web.Response:
        requests.append(request.path_qs)
        return web.Response(text=text())

    async with serving(answering) as port, following(port, ask_loopback=False) as watch:
        seen = await problem(watch)
        assert (seen.polled, seen.answer) == (True, None)
        assert "the operator does not poll it" in seen.problem
    assert requests == []


async def test_descriptors_used_up_say_nothing_of_a_sidecar(monkeypatch: pytest.MonkeyPatch) -> None:
    used_up = False
    make = watch_module._socket

    def socket_or_none(address: object) -> object:
        if used_up:
            raise OSError(errno.EMFILE, "Too many open files")
        return make(address)

    async def answering(_: web.Request) -> web.Response:
        return web.Response(text=text(), headers={"Connection": "close"})

    monkeypatch.setattr(watch_module, "_socket", socket_or_none)
    async with serving(answering) as port, following(port) as watch:
        await watch.first_answers("team", DEADLINE)
        assert watch.seen("team")["u"].answer is not None
        used_up = True
        seen = await problem(watch)
        assert "operator cannot poll the sidecar" in seen.problem
        assert (seen.unreachable_since, seen.polled, seen.ever_answered) == (None, False, True)
        assert seen.last is not None


@pytest.mark.parametrize(
    ("containers", "port"),
    [
        ([{"name": "patio", "ports": [{"name": "patio", "containerPort": 9191}]}], 9191),
        ([{"name": "patio", "env": [{"name": "PATIO_OPERATOR_KEYS", "value": "x"}]}], 9091),
        ([{"name": "engine", "ports": [{"name": "http", "containerPort": 80}]}], None),
        ([], None),
    ],
)
def test_pod_without_a_sidecars_container_is_not_followed(containers: list[object], port: int | None) -> None:
    metadata = {"name": "p", "namespace": "team", "uid": "u", "labels": {"patio.dev/injected": "true"}}
    found = decode_engine_pod(
        {"metadata": metadata, "spec": {"containers": containers}, "status": {"podIP": "10.0.0.1"}}
    )
    assert found.sidecar_port == port
    assert (found.sidecar_url is None) == (port is None)


async def test_missing_answer_is_reported_by_its_cause() -> None:
    async def closing(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def refusing(_: web.Request) -> web.Response:
        return web.Response(status=503)

    async with serving(closing) as port, following(port) as watch:
        assert "closed without an answer" in (await problem(watch)).problem
    async with serving(refusing) as port, following(port) as watch:
        assert "it answered 503" in (await problem(watch)).problem
    async with following(port) as watch:
        assert "the connection is refused" in (await problem(watch)).problem

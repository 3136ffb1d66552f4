"""What strangers can hold of the server: connections, time, memory, long-polls; and what it does at its limits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import Server as UvicornServer
from uvicorn.server import ServerState

from patio import server
from patio.access.authorizer import Authorizer
from patio.access.connection_limits import ConnectionLimits, LongPolls
from patio.access.openness import EVERYONE, open_to
from patio.access.settings import AccessSettings
from patio.adapters.store import Store
from patio.app import assemble
from patio.file_limit import raise_file_limit
from patio.logs import LineLimit
from patio.routes import access
from patio.routes.access import add_access
from patio.routes.adapters import ENDING_SECONDS
from patio.server import configured, limit_loop_errors, listen
from patio.settings import Settings
from patio.variables import SettingsError
from patio_protocol.adapters import LoadRequest
from patio_protocol.errors import SidecarError
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import StartSidecar, eventually
from patio_testing.sidecar.processes import PodProcesses, machine, start_busy_pod

MANY = 20_000


def application() -> FastAPI:
    app = FastAPI()
    add_access(app, Authorizer(AccessSettings(), time.time), lambda _: None)

    @app.get("/quick")
    @open_to(EVERYONE)
    async def quick() -> str:
        return "quick"

    @app.get("/large")
    @open_to(EVERYONE)
    async def large(size: int) -> Response:
        return Response(bytes(size))

    @app.get("/slow")
    @open_to(EVERYONE)
    async def slow(request: Request) -> str:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return "over"

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return app


class Serving:
    """A server in this process; callers choose the address they come from, within 127.0.0.0/8."""

    def __init__(self, port: int, running: UvicornServer) -> None:
        self.port = port
        self._running = running

    @property
    def connections(self) -> int:
        return len(self._running.server_state.connections)

    @property
    def tasks(self) -> int:
        return len(self._running.server_state.tasks)

    async def connect(self, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))

    async def ask(self, target: str, source: str = "127.0.0.1") -> bytes:
        reader, writer = await self.connect(source)
        writer.write(f"GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        try:
            async with asyncio.timeout(DEADLINE):
                return await reader.read()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving(files: int = MANY) -> AsyncIterator[Serving]:
    listening = listen("127.0.0.1", 0)
    running = UvicornServer(configured(application(), files))
    task = asyncio.create_task(running.serve(sockets=[listening]))
    try:
        await eventually(lambda: _true(running.started), "it serves")
        yield Serving(listening.getsockname()[1], running)
    finally:
        running.force_exit = running.should_exit = True
        for connection in list(running.server_state.connections):
            connection.transport.abort()
        await task


async def _true(value: bool) -> bool:
    return value


async def closed(reader: asyncio.StreamReader) -> bytes:
    """Return what still comes until the other side closes."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(DEADLINE):
            return await reader.read()
    return b""


# --- time


@pytest.mark.parametrize("head", [b"", b"G", b"GET /quick HTTP/1.1\r\n", b"GET /quick HTTP/1.1\r\nhost: a\r\nx: "])
async def test_head_that_is_not_whole_in_time_ends_the_connection(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(head)

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while head:
                    await asyncio.sleep(0.05)
                    writer.write(b"a")

        dripping = asyncio.create_task(drip())
        assert await closed(reader) == b""
        dripping.cancel()
        assert served.connections == 0


async def test_second_head_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    async with serving() as served:
        reader, writer = await served.connect()
        for _ in range(3):
            writer.write(b"GET /quick HTTP/1.1\r\nhost: a\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b'"quick"')
        assert await closed(reader) == b""


async def test_body_that_is_not_whole_in_time_gets_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(server, "BODY_SECONDS", 0.5)
    async with serving() as served:
        reader, writer = await served.connect()
        head = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n12"
        writer.write(head)
        answer = await closed(reader)
        assert b" 408 " in answer
        assert b"BodyTooSlow" in answer
        assert served.connections == 0


@pytest.mark.parametrize("method", [b"POST /echo", b"GET /quick"])
async def test_body_that_is_not_read_has_its_time_too(monkeypatch: pytest.MonkeyPatch, method: bytes) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.3)
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(method + b" HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n")
        # The answer needs no body. Sending after the end resets the connection, and loses an answer not yet read.
        assert (await reader.readline()).startswith(b"HTTP/1.1 ")

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"a" * 1000)
                    await writer.drain()
                    await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        await closed(reader)
        dripping.cancel()
        await eventually(lambda: _true(not served.connections), "the connection is closed")


@pytest.mark.parametrize("call", [b"POST /echo", b"GET /slow", b"GET /quick"])
async def test_body_that_no_route_takes_has_an_end(call: bytes) -> None:
    async with serving() as served:
        _, writer = await served.connect()
        writer.write(call + b" HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n")
        await eventually(lambda: _true(served.connections == 1), "it is connected")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while served.connections:
                writer.write(b"a" * 65536)
                await writer.drain()
                sent += 65536
                assert sent < 50_000_000
        writer.close()


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
@pytest.mark.parametrize("size", [b"4000000", b"20000000"])
async def test_answer_that_is_not_read_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, connection: bytes, size: bytes
) -> None:
    monkeypatch.setattr(server, "STALLED_SECONDS", 0.3)
    async with serving() as served:
        _, writer = await served.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large?size=%s HTTP/1.1\r\nhost: a\r\nconnection: %s\r\n\r\n" % (size, connection))
        await eventually(lambda: _true(served.connections == 1), "it is connected")
        await eventually(lambda: _true(not served.connections), "the connection is closed")


async def test_answers_that_are_not_read_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_UNSENT", 40_000_000)
    async with serving() as served:
        for number in range(8):
            _, writer = await served.connect(f"127.0.0.{number + 1}")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /large?size=20000000 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        await eventually(lambda: _true(not served.tasks), "all are answered")
        await eventually(lambda: _true(0 < served.connections <= 3), "most have lost their answers")
        assert b'"quick"' in await served.ask("/quick")


async def test_caller_that_hangs_up_is_waited_for_no_longer() -> None:
    async with serving() as served:
        _, writer = await served.connect()
        writer.write(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        await eventually(lambda: _true(served.tasks == 1), "it waits")
        writer.close()
        await eventually(lambda: _true(not served.tasks), "it waits no longer")


# --- what is no HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET  /quick\r\n\r\n",
        b"GET /quick HTTP/1.1\r\n\r\n",
        b"GET /quick HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /qu\x01ick HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n12",
        b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"GET /quick HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 200_000,
        b"GET /quick HTTP/1.1\r\nhost: a\r\n" + b"a:b\r\n" * 50_000 + b"\r\n",
    ],
)
async def test_what_is_no_request_gets_400_in_the_one_shape(sent: bytes) -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(sent)
        head, _, body = (await closed(reader)).partition(b"\r\n\r\n")
        if head or len(sent) < 100_000:  # the kernel may drop the answer to those who still send
            assert head.startswith(b"HTTP/1.1 400 ")
            assert json.loads(body)["error"]["code"] == "InvalidRequest"
        assert b'"quick"' in await served.ask("/quick")


async def test_broken_chunks_after_an_answer_are_no_sidecar_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        for _ in range(50):
            reader, writer = await served.connect()
            writer.write(b"POST /nothing HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            await reader.readuntil(b"}")
            writer.write(b"not a chunk\r\n")
            await closed(reader)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_upgrades_and_noise_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        with caplog.at_level(logging.INFO, "patio"):
            for sent in [
                b"\x00\r\n\r\n",
                b"GET /quick HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            ]:
                for _ in range(60):
                    reader, writer = await served.connect()
                    writer.write(sent)
                    await reader.read(1)
                    writer.close()
    assert len(caplog.records) <= 25


async def test_calls_in_one_go_are_answered_in_order() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        call = b"GET /quick HTTP/1.1\r\nhost: a\r\n\r\n"
        rejected_call = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(call) + call
        writer.write(call + rejected_call + call + call.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        answers = await closed(reader)
        assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401", b"200", b"200"]


# --- places


async def test_strangers_hold_what_they_can_and_others_are_answered() -> None:
    async with serving(files=200) as served:
        writers = []
        for number in range(150):
            _, writer = await served.connect("127.0.0.9" if number < 100 else f"127.0.1.{number}")
            with contextlib.suppress(ConnectionError):
                writer.write(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
                await writer.drain()
            writers.append(writer)
        for source in ("127.0.0.1", "127.0.0.2"):
            assert b'"quick"' in await served.ask("/quick", source)
        assert served.connections <= 101
        for writer in writers:
            writer.close()
        await eventually(lambda: _true(not served.tasks), "nothing waits for strangers")
        assert b'"quick"' in await served.ask("/quick", "127.0.0.9")


async def test_one_peer_too_many_is_rejected_with_a_message() -> None:
    async with serving(files=64) as served:
        writers = []
        for _ in range(8):
            _, writer = await served.connect()
            writer.write(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            writers.append(writer)
        await eventually(lambda: _true(served.tasks == 8), "all wait")
        reader, _ = await served.connect()
        answer = await closed(reader)
        assert b" 503 " in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "TooManyConnections"
        assert served.tasks == 8


PEERS = st.sampled_from("abcdef")


@given(st.lists(st.tuples(PEERS, st.booleans()), max_size=80), st.integers(1, 12), st.integers(1, 12))
def test_connections_never_exceed_their_limits(
    arrivals: list[tuple[str, bool]], limit: int, limit_of_a_peer: int
) -> None:
    idle: dict[int, bool] = {}
    peers: dict[int, str] = {}
    limits: ConnectionLimits[int] = ConnectionLimits(lambda key: idle[key], limit, limit_of_a_peer)
    for number, (peer, is_idle) in enumerate(arrivals):
        idle[number], peers[number] = is_idle, peer
        dropped = limits.enter(number, peer)
        inside = [key for key in peers if key in limits]
        counts = {name: [peers[connection] for connection in inside].count(name) for name in "abcdef"}
        assert len(limits) == len(inside) <= limit
        assert max(counts.values()) <= limit_of_a_peer
        if dropped is not None and dropped != number and peers[dropped] != peer:
            assert counts[peers[dropped]] + 1 >= max(counts.values()), "who holds the most loses one"


def test_single_connection_stays_while_another_peer_has_two() -> None:
    limits: ConnectionLimits[str] = ConnectionLimits(lambda _: False, 3, 3)
    assert [limits.enter(connection, connection[0]) for connection in ("a1", "b1", "b2")] == [None, None, None]
    assert limits.enter("c1", "c") == "b1"
    assert limits.enter("d1", "d") == "d1", "all have one, and none is idle"


@given(st.lists(st.tuples(PEERS, st.booleans()), max_size=200))
def test_long_polls_are_bounded_and_each_peer_has_some(arrivals: list[tuple[str, bool]]) -> None:
    polls, waiting = LongPolls(10, 5, 2), dict.fromkeys("abcdef", 0)
    for peer, arrives in arrivals:
        if not arrives:
            if waiting[peer]:
                polls.leave(peer)
                waiting[peer] -= 1
            continue
        accepted = polls.enter(peer)
        if waiting[peer] < 2:
            assert accepted
        if waiting[peer] >= 5 or (sum(waiting.values()) >= 10 and waiting[peer] >= 2):
            assert not accepted
        waiting[peer] += accepted
    assert len(polls) == sum(waiting.values())


async def test_long_poll_too_many_gets_429_and_a_plain_call_does_not(
    sidecar: StartSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sidecar("http://127.0.0.1:9") as client:
        revision = (await client.adapters()).revision
        http = client._http
        polls = [
            asyncio.create_task(http.get(f"http://sidecar/v1/lora_adapters?revision={revision}&wait=300"))
            for _ in range(33)
        ]
        done, waiting = await asyncio.wait(polls, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        (rejected,) = [poll.result() for poll in done]
        assert rejected.status_code == 429
        assert rejected.headers["retry-after"] == "10"
        assert rejected.json()["error"]["code"] == "TooManyLongPolls"
        assert rejected.json()["error"]["retryable"] is True
        assert (await client.adapters()).revision == revision
        await client.load(LoadRequest(lora_name="a", lora_path="/a", wait=0))
        for poll in waiting:
            assert (await poll).status_code == 200
        assert (await client.adapters(revision, 0.01)).adapters


# --- files


def test_file_limit_is_raised_to_the_hard_one() -> None:
    program = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))
from patio.file_limit import raise_file_limit
print(raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert done.stdout.split() == ["512", "(512,", "512)"]
    assert raise_file_limit() > 0


async def test_no_files_left_is_logged_once_as_the_sidecars_fault(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    now = 0.0
    limit_loop_errors(loop, LineLimit(1, 30.0, lambda: now))
    context = {
        "message": "socket.accept() out of system resource",
        "exception": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    }
    try:
        for _ in range(1000):
            loop.call_exception_handler(dict(context))
        now = 31.0
        loop.call_exception_handler(dict(context))
        loop.call_exception_handler({"message": "something else", "exception": ValueError("x")})
    finally:
        loop.set_exception_handler(None)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(" ")[2] for line in lines[:2]] == ["suppressed=0", "suppressed=999"]
    assert "the sidecar" in lines[0]
    assert "the engine is not the cause" in lines[0]
    assert lines[2:] == ["something else"]


FULL = """
import asyncio, logging, os, resource, sys
from patio.logs import configure
from patio.server import limit_loop_errors, listen
async def main():
    configure("INFO", False)
    limit_loop_errors(asyncio.get_running_loop())
    async def answer(reader, writer):
        writer.write(b"answered")
        writer.close()
    server = await asyncio.start_server(answer, sock=listen("127.0.0.1", 0), backlog=256)
    await asyncio.to_thread(int)
    print(server.sockets[0].getsockname()[1], flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    print("full", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for one in held:
        os.close(one)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())
"""


async def test_process_without_files_writes_a_line_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FULL), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        assert await process.stdout.readline() == b"full\n"
        callers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        assert len(callers) == 100

        async def is_logged() -> bool:
            return "cannot open more files" in log.read_text()

        await eventually(is_logged, "the fault is logged")
        process.stdin.write(b"\n")

        async def is_answered() -> bool:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = await closed(reader)
            writer.close()
            return answer == b"answered"

        await eventually(is_answered, "callers are answered again")
        assert log.read_text().count("\n") == 1
    finally:
        process.kill()
        await process.wait()


def test_connections_take_half_of_the_files_at_most() -> None:
    configs = [configured(application(), files) for files in (10, 64, 256, 1024, 1_000_000)]
    limits = [config.http(config=config, server_state=None, app_state={})._limits for config in map(_loaded, configs)]
    assert [limit._most for limit in limits] == [8, 32, 128, 512, 512]
    assert [limit._most_of_a_peer for limit in limits] == [4, 8, 32, 64, 64]


def _loaded(config: Any) -> Any:
    protocol_class = config.http
    config.load()
    config.http = lambda **arguments: protocol_class(**{**arguments, "server_state": ServerState(), "_loop": object()})
    return config


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


LIMITED = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)); "


async def test_process_with_few_files_answers_while_strangers_hold_on(tmp_path: Path, few_files: None) -> None:
    async with machine(tmp_path) as local_machine:
        pod = PodProcesses(local_machine, "pod-0", variables={"TOPO_TYPE": "none"})
        await pod.start_engine()
        await local_machine.answers(f"{pod.url}/health")
        pod.sidecar = await local_machine.start(
            "pod-0-sidecar",
            *("-c", LIMITED + "sys.argv = sys.argv[1:]; runpy.run_module('patio.app', run_name='__main__')", "patio"),
            *("--host", "127.0.0.1", "--port", str(pod.sidecar_port), "--engine", "vllm"),
            **{"INFERENCE_ENGINE_ENDPOINT": pod.url, "PATIO_STATE_FILE": str(tmp_path / "state.json")},
        )
        base = f"http://127.0.0.1:{pod.sidecar_port}"
        await local_machine.answers(f"{base}/ready", pod.sidecar)
        revision = (await pod.client.adapters()).revision
        poll = f"GET /v1/lora_adapters?revision={revision}&wait=300 HTTP/1.1\r\nhost: a\r\n\r\n".encode()
        writers = []
        for number in range(300):
            with contextlib.suppress(OSError):
                source = f"127.0.{number % 3}.{number % 20 + 9}"
                _, writer = await asyncio.open_connection("127.0.0.1", pod.sidecar_port, local_addr=(source, 0))
                writers.append(writer)
                if number % 2:
                    writer.write(poll)
        began = time.monotonic()
        for _ in range(20):
            answer = await local_machine.http.get(f"{base}/ready", headers={"connection": "close"}, timeout=DEADLINE)
            assert answer.status_code == 200, answer.text
        assert await pod.client.adapters(revision, 0.01)
        open_files = len(os.listdir(f"/proc/{pod.sidecar.pid}/fd"))
        assert open_files < 128, f"{open_files} after {time.monotonic() - began:.1f} s"
        for writer in writers:
            writer.close()
        log = local_machine.read_log("pod-0-sidecar")
        assert log.count("\n") < 200
        assert "Traceback" not in log
        assert await pod.terminate_sidecar() == 0


async def test_sigterm_while_drained_answers_no_long_poll_early(tmp_path: Path) -> None:
    async with machine(tmp_path) as local_machine:
        pod, request = await start_busy_pod(local_machine, tokens_per_second=10)
        draining = asyncio.create_task(pod.client.drain(20))
        await eventually(lambda: _is_logged(local_machine, "drain begins"), "the drain begins")
        assert pod.sidecar is not None
        pod.sidecar.send_signal(signal.SIGTERM)
        answered = 0
        revision = (await pod.client.adapters()).revision
        while not draining.done():
            with contextlib.suppress(SidecarError):
                revision = (await pod.client.adapters(revision, 30)).revision
                answered += 1
        assert (await draining).drained
        await request
        assert answered <= 3
        assert await asyncio.wait_for(pod.sidecar.wait(), DEADLINE) == 0


async def test_long_poll_that_comes_at_the_end_is_held_for_a_moment() -> None:
    stopping = asyncio.Event()
    app = assemble(Settings(), Store(None), httpx.AsyncClient(), stopping).app
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
        revision = (await http.get("/v1/lora_adapters")).json()["revision"]
        stopping.set()
        began = time.monotonic()
        for _ in range(2):
            assert (await http.get(f"/v1/lora_adapters?revision={revision}&wait=60")).status_code == 200
        assert time.monotonic() - began >= 2 * ENDING_SECONDS


async def _is_logged(local_machine: Any, text: str) -> bool:
    return text in local_machine.read_log("pod-0-sidecar")


# --- addresses


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def _reaches(listening: socket.socket, host: str) -> bool:
    listening.listen()
    try:
        with socket.create_connection((host, listening.getsockname()[1]), timeout=60):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="this host has no IPv6")
def test_default_host_is_every_address_of_both_families() -> None:
    with listen("::", 0) as listening:
        assert [_reaches(listening, host) for host in ("127.0.0.1", "::1")] == [True, True]
    with listen("0.0.0.0", 0) as listening:
        assert [_reaches(listening, host) for host in ("127.0.0.1", "::1")] == [True, False]


@pytest.mark.parametrize("fault", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_host_without_ipv6_is_listened_on_by_ipv4(monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    original = server._bound

    def bound(host: str, port: int) -> socket.socket:
        if ":" in host:
            raise OSError(fault, os.strerror(fault))
        return original(host, port)

    monkeypatch.setattr(server, "_bound", bound)
    with listen("::", 0) as listening:
        assert _reaches(listening, "127.0.0.1")
    with pytest.raises(SettingsError, match="cannot listen on fd00::1"):
        listen("fd00::1", 0)


def test_taken_port_is_no_reason_for_another_family() -> None:
    with listen("::", 0) as listening:
        listening.listen()
        with pytest.raises(SettingsError, match="in use"):
            listen("::", listening.getsockname()[1])


async def test_outside_caller_over_dual_stack_is_no_insider() -> None:
    transport = httpx.ASGITransport(app=application(), client=("::ffff:10.1.2.3", 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as http:
        assert (await http.post("/echo", json={})).status_code == 401

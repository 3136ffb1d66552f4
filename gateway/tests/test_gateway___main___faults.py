"""`python -m patio_gateway` while engines, Envoy, its file of keys or its disk fail: the rows of gateway-faults.md."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from inference_server import CustomServer
from inference_server.ports import free_port
from patio_gateway.__main__ import _clients
from patio_testing.deadline import DEADLINE
from patio_testing.gateway_command import completion, gateway_command, line_with
from patio_testing.local_servers import engine_double
from patio_testing.model_gateway import until

SLOW = ("--model", "tiny", "--tokens-per-second", "20")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short path: the gateway's sockets are in it."""
    made = Path(tempfile.mkdtemp(prefix="gateway-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def ended(process: asyncio.subprocess.Process) -> int:
    """Wait until a command has ended; return its exit code."""
    async with asyncio.timeout(DEADLINE):
        return await process.wait()


@contextmanager
def engines(folder: Path, count: int, *arguments: str) -> Iterator[dict[str, CustomServer]]:
    """Start engine doubles; yield them by the name that `x-patio-pod` has."""
    if not count:
        yield {}
        return
    port = free_port()
    with engine_double(f"engine-{count}", folder, port, *arguments) as engine:
        assert engine.wait_until_ready()
        with engines(folder, count - 1, *arguments) as others:
            yield {f"127.0.0.1:{port}": engine, **others}


def named(pods: dict[str, CustomServer]) -> list[str]:
    return [word for pod in pods for word in ("--engine", f"http://{pod}")]


def send(engine: CustomServer, number: signal.Signals) -> None:
    assert engine.process is not None
    os.kill(engine.process.pid, number)


@asynccontextmanager
async def stream(port: int, tokens: int) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[str]]]:
    """Ask for a stream; yield the answer and the rest of its lines when the first line has come."""
    body = {"model": "tiny", "prompt": "Say it", "max_tokens": tokens, "stream": True}
    async with (
        httpx.AsyncClient(timeout=DEADLINE, trust_env=False) as client,
        client.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=body) as answer,
    ):
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        yield answer, lines


async def test_killed_engine_breaks_off_its_stream_alone(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    with engines(tmp_path, 2, *SLOW) as pods:
        async with gateway_command(folder, port, *named(pods)) as process:
            await line_with(process, "workers=2")
            async with stream(port, 400) as (answer, lines):
                send(pods[answer.headers["x-patio-pod"]], signal.SIGKILL)
                # The head with its 200 is long sent: all that HTTP has left is to end the connection too early.
                with pytest.raises(httpx.RemoteProtocolError):
                    assert [line async for line in lines if line == "data: [DONE]"] == []
            others = [await completion(port, "tiny") for _ in range(6)]
            assert {other.status_code for other in others} == {200}
            assert {other.headers["x-patio-pod"] for other in others} == pods.keys() - {answer.headers["x-patio-pod"]}


async def test_stalled_engine_is_out_and_its_stream_waits(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    with engines(tmp_path, 2, *SLOW) as pods:
        async with gateway_command(folder, port, *named(pods)) as process:
            await line_with(process, "workers=2")
            async with stream(port, 60) as (answer, lines):
                stalled = answer.headers["x-patio-pod"]
                send(pods[stalled], signal.SIGSTOP)
                try:
                    await line_with(process, "workers=1")
                    others = [await completion(port, "tiny") for _ in range(6)]
                finally:
                    send(pods[stalled], signal.SIGCONT)
                assert {other.headers["x-patio-pod"] for other in others} == pods.keys() - {stalled}
                assert "data: [DONE]" in [line async for line in lines]
            await line_with(process, "workers=2")


async def test_command_serves_again_after_a_kill_of_envoy(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    with engines(tmp_path, 1, *SLOW) as pods:
        async with gateway_command(folder, port, *named(pods)) as first:
            found = re.search(r"pid=(\d+)", await line_with(first, "envoy_started"))
            assert found
            await line_with(first, "workers=1")
            async with stream(port, 400) as (_, lines):
                os.kill(int(found[1]), signal.SIGKILL)
                with pytest.raises(httpx.TransportError):
                    assert [line async for line in lines if line == "data: [DONE]"] == []
            assert await ended(first) == 1
        with pytest.raises(httpx.ConnectError):
            await completion(port, "tiny")
        async with gateway_command(folder, port, *named(pods)) as second:
            # The files of the first are there: no request of the second has to wait for the engines.
            await line_with(second, "gateway_started")
            assert (await completion(port, "tiny")).status_code == 200


def write_key(path: Path, key: str) -> None:
    path.write_text(f"- {{name: a, key: {key}}}\n")
    path.chmod(0o600)


@pytest.mark.parametrize("damage", ["missing", "open to others", "no list of keys"])
async def test_keys_of_an_unreadable_file_stay_valid(folder: Path, tmp_path: Path, damage: str) -> None:
    port, keys = free_port(), tmp_path / "keys.yaml"
    write_key(keys, "sk-first-key")
    with engines(tmp_path, 1, "--model", "tiny") as pods:
        async with gateway_command(folder, port, *named(pods), "--key-file", str(keys)) as process:
            await line_with(process, "workers=1")
            if damage == "missing":
                keys.unlink()
            elif damage == "open to others":
                keys.chmod(0o644)
            else:
                keys.write_text("- 2024-13-01")
            assert "sk-first-key" not in await line_with(process, "keys_kept")
            assert [(await completion(port, "tiny", key)).status_code for key in ("sk-first-key", None)] == [200, 401]
            write_key(keys, "sk-other-key")
            await until_valid(port, "sk-other-key")
            assert (await completion(port, "tiny", "sk-first-key")).status_code == 401


def test_file_of_keys_that_stays_unreadable_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = tmp_path / "keys.yaml"
    write_key(keys, "sk-first-key")
    read = _clients(keys)
    for times in (1, 2):
        keys.write_text("- 2024-13-01")
        assert [read(), read(), read()] == [read()] * 3
        assert caplog.text.count("keys_kept") == times
        write_key(keys, "sk-first-key")
        read()


async def until_valid(port: int, key: str) -> None:
    async def is_valid() -> bool:
        return (await completion(port, "tiny", key)).status_code == 200

    await until(is_valid, f"{key} is valid")


def half_written(folder: Path) -> list[Path]:
    return list(folder.glob(".*.new"))


async def test_full_disk_keeps_what_was_written_before(folder: Path, tmp_path: Path) -> None:
    port, keys = free_port(), tmp_path / "keys.yaml"
    write_key(keys, "sk-first-key")
    with engines(tmp_path, 1, "--model", "tiny") as pods:
        async with gateway_command(folder, port, *named(pods), "--key-file", str(keys)) as process:
            await line_with(process, "workers=1")
            # From now on the kernel lets the program write no byte to a file, which is what a full disk does.
            _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, most))
            write_key(keys, "sk-other-key")
            await line_with(process, "snapshot_not_written")
            assert [(await completion(port, "tiny", key)).status_code for key in ("sk-first-key", None)] == [200, 401]
            assert half_written(folder) == []
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
            await line_with(process, "snapshot_applied")
            await until_valid(port, "sk-other-key")
            assert (await completion(port, "tiny", "sk-first-key")).status_code == 401


async def test_start_in_a_folder_it_cannot_write_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with gateway_command(tmp_path / "file", free_port(), "--engine", "http://127.0.0.1:9=m") as process:
        assert "file" in await line_with(process, "patio_gateway: ")
        assert await ended(process) == 1

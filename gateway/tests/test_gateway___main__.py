"""`python -m patio_gateway`: one command serves engines, and what it leaves when it ends or is killed."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from inference_server.ports import free_port
from patio_gateway.__main__ import BAD_INPUT, FAILED, main, parser
from patio_gateway.envoy.admin import Admin
from patio_testing.gateway_command import completion, gateway_command, line_with
from patio_testing.local_servers import engine_double


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short path: the gateway's sockets are in it."""
    made = Path(tempfile.mkdtemp(prefix="gateway-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def test_command_serves_engines_until_it_is_asked_to_end(folder: Path, tmp_path: Path) -> None:
    port, engine_port = free_port(), free_port()
    with engine_double("engine", tmp_path, engine_port, "--model", "tiny") as engine:
        assert engine.wait_until_ready()
        direct = await completion(engine_port, "tiny", stream=True, seed=1)
        async with gateway_command(
            folder, port, "--engine", f"http://127.0.0.1:{engine_port}", "--drain", "5"
        ) as process:
            await line_with(process, "models=1 workers=1")
            answer = await completion(port, "tiny", stream=True, seed=1)
            assert answer.headers["x-patio-pod"] == f"127.0.0.1:{engine_port}"
            assert answer.text.endswith("data: [DONE]\n\n")
            assert without_identity(answer.text) == without_identity(direct.text)
            process.send_signal(signal.SIGTERM)
            await line_with(process, "gateway_stopping")
            async with asyncio.timeout(60):
                assert await process.wait() == 0
        with pytest.raises(httpx.ConnectError):
            await completion(port, "tiny")


def without_identity(text: str) -> str:
    """Return a stream without what differs from request to request."""
    return re.sub(r'"(id|created)":("[^"]*"|\d+)', "", text)


async def test_kill_of_the_command_loses_no_request(folder: Path, tmp_path: Path) -> None:
    port, engine_port = free_port(), free_port()
    with engine_double("engine", tmp_path, engine_port, "--model", "tiny", "--tokens-per-second", "20") as engine:
        assert engine.wait_until_ready()
        words = ("--engine", f"http://127.0.0.1:{engine_port}", "--access-log", str(tmp_path / "access.log"))
        async with gateway_command(folder, port, *words) as first:
            await line_with(first, "models=1 workers=1")
            asking = [asyncio.create_task(completion(port, "tiny", max_tokens=20)) for _ in range(10)]
            await asyncio.wait(asking, timeout=0.2)
            first.kill()
            await first.wait()
            asking += [asyncio.create_task(completion(port, "tiny")) for _ in range(10)]
            async with gateway_command(folder, port, *words) as second:
                # The second takes Envoy as it is.
                await line_with(second, "envoy_adopted")
                answers = await asyncio.gather(*asking)
                assert [answer.status_code for answer in answers] == [200] * 20
                second.send_signal(signal.SIGINT)
                async with asyncio.timeout(60):
                    assert await second.wait() == 0
            async with Admin(str(folder / "admin.sock")) as admin:
                assert not await admin.serves()


async def test_kill_of_envoy_ends_the_command_with_its_words(folder: Path) -> None:
    async with gateway_command(folder, free_port(), "--engine", "http://127.0.0.1:9=m") as process:
        line = await line_with(process, "envoy_started")
        found = re.search(r"pid=(\d+)", line)
        assert found
        os.kill(int(found[1]), signal.SIGKILL)
        await line_with(process, "Envoy ended with -9")
        async with asyncio.timeout(60):
            assert await process.wait() == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "ftp://a"], "expected http://HOST:PORT"),
        (["--engine", "http://a:1", "--engine", "http://a:1=m"], "twice"),
        (["--engine", "http://a:1", "--port", "0"], "--port 0"),
        (["--engine", "http://a:1", "--host", "localhost"], "--host localhost"),
        (["--engine", "http://a:1", "--metrics-port", "0"], "--metrics-port 0"),
        (["--engine", "http://a:1", "--threads", "0"], "--threads 0"),
        (["--engine", "http://a:1", "--most-body", "1"], "--most-body 1"),
        (["--engine", "http://a:1", "--most-heap", "1"], "--most-heap 1"),
        (["--engine", "http://a:1", "--drain", "-1"], "--drain -1"),
        (["--engine", "http://a:1", "--drain", "nan"], "--drain nan"),
        (["--engine", "http://a:1", "--envoy", "/no/such"], "/no/such"),
        (["--engine", "http://a:1", "--key-file", "/no/such"], "/no/such"),
        (["--engine", "http://a:1", "--folder", "/" + "x" * 91], "longer than 90"),
        (["--engine", "http://a:1", "--namespaces", "a"], "--namespaces is for --kubernetes"),
        (["--engine", "http://a:1", "--open"], "--open is for --kubernetes"),
        (["--engine", "http://a:1", "--keys-from-secrets"], "--keys-from-secrets is for --kubernetes"),
        (["--kubernetes"], "--kubernetes needs --keys-from-secrets, or --open"),
        (["--kubernetes", "--open", "--key-file", "f"], "--key-file is for --engine"),
        (["--kubernetes", "--open", "--namespaces", "a,,b"], "--namespaces a,,b"),
        (["--kubernetes", "--open", "--namespaces", ""], "--namespaces"),
        (["--kubernetes", "--open"], "POD_NAME"),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POD_NAME", raising=False)
    assert main(words) == BAD_INPUT
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of the arguments --engine --kubernetes is required"),
        (["--engine", "http://a:1", "--kubernetes"], "not allowed with argument --engine"),
        (["--kubernetes", "--open", "--keys-from-secrets"], "not allowed with argument --open"),
    ],
)
def test_options_that_exclude_each_other_are_told(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == BAD_INPUT
    assert message in capsys.readouterr().err


def test_missing_cluster_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "gateway-0")
    monkeypatch.setenv("POD_NAMESPACE", "patio-system")
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["--kubernetes", "--open"]) == FAILED
    assert "neither a service account nor a usable kubeconfig" in capsys.readouterr().err


def test_help_explains_every_option() -> None:
    options = [action for action in parser()._actions if action.option_strings]
    assert len(options) > 8
    assert all(action.help for action in options)


async def test_port_that_is_taken_ends_with_one(folder: Path, unused_tcp_port: int) -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", unused_tcp_port)
    async with server, gateway_command(folder, unused_tcp_port, "--engine", "http://127.0.0.1:9=m") as process:
        await line_with(process, "Envoy cannot listen")
        async with asyncio.timeout(60):
            assert await process.wait() == 1


async def test_keys_of_the_file_count_within_two_seconds(folder: Path, tmp_path: Path) -> None:
    port, engine_port = free_port(), free_port()
    keys = tmp_path / "keys.yaml"

    def write(key: str) -> None:
        keys.write_text(f"- {{name: a, key: {key}}}\n")
        keys.chmod(0o600)

    async def status(key: str) -> int:
        async with httpx.AsyncClient(trust_env=False) as client:
            headers = {"authorization": f"Bearer {key}"}
            url = f"http://127.0.0.1:{port}/v1/completions"
            return (await client.post(url, json={"model": "tiny", "prompt": "x"}, headers=headers)).status_code

    write("sk-first-key")
    with engine_double("engine", tmp_path, engine_port, "--model", "tiny") as engine:
        assert engine.wait_until_ready()
        words = ("--engine", f"http://127.0.0.1:{engine_port}", "--key-file", str(keys))
        async with gateway_command(folder, port, *words) as process:
            await line_with(process, "models=1 workers=1")
            assert (await status("sk-first-key"), await status("sk-other-key")) == (200, 401)
            write("sk-other-key")
            await line_with(process, "snapshot_applied")
            assert (await status("sk-first-key"), await status("sk-other-key")) == (401, 200)

"""`python -m patio_gateway.forwarder`: upstream's commands, its end, its processes, and bad input."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from engine_double.server import running_double
from inference_server.ports import free_port
from patio_gateway.forwarder.__main__ import BAD_INPUT, FAILED, main, parser
from patio_testing.deadline import DEADLINE
from patio_testing.gateway_command import line_with
from patio_testing.model_gateway import until

from .forwarders import CHAT, HELLO, UPSTREAM, in_time, results

UPSTREAM_PROGRAM = "python model_engine_server/inference/forwarding/http_forwarder.py"
UPSTREAM_COMMAND = r"""
GIT_TAG=test python model_engine_server/inference/forwarding/http_forwarder.py \
    --config model_engine_server/inference/configs/service--http_forwarder.yaml \
    --num-workers 1 \
    --set "forwarder.sync.extra_routes=['/v1/chat/completions','/v1/completions']" \
    --set "forwarder.stream.extra_routes=['/v1/chat/completions','/v1/completions']" \
    --set "forwarder.sync.healthcheck_route=/health" \
    --set "forwarder.stream.healthcheck_route=/health"
""".strip()
UPSTREAM_CURL = r"""
 curl -X POST localhost:5000/v1/chat/completions  -H "Content-Type: application/json" -d "{\"args\": {\"model\":\"$MODEL\", \"messages\":[{\"role\": \"systemr\", \"content\": \"Hey, what's the temperature in Paris right now?\"}],\"max_tokens\":100,\"temperature\":0.2,\"guided_regex\":\"Sean.*\"}}"
"""  # noqa: E501
"""The commands of Model Engine's page on its forwarder, to the letter."""
MODEL = "meta-llama/Meta-Llama-3.1-8B-Instruct"


@asynccontextmanager
async def command(
    folder: Path, port: int, engine_port: int, *options: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the forwarder with upstream's file; end it at the end."""
    (folder / "forwarder.yaml").write_bytes(UPSTREAM)
    values = [f"forwarder.{kind}.user_port={engine_port}" for kind in ("sync", "stream")]
    values += [f"forwarder.{kind}.extra_routes=['{CHAT}']" for kind in ("sync", "stream")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "patio_gateway.forwarder", "--config", str(folder / "forwarder.yaml")),
        *(word for value in values for word in ("--set", value)),
        *("--host", "127.0.0.1", "--port", str(port), *options),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await line_with(process, "forwarder_started")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, trust_env=False) as client:
        yield client


async def rest_of(process: asyncio.subprocess.Process) -> str:
    """Return the rest of a command's log, when it has ended."""
    assert process.stderr is not None
    text: bytes = await in_time(process.stderr.read())
    return text.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_commands_of_upstreams_page_work_to_the_letter(tmp_path: Path) -> None:
    config = tmp_path / "model_engine_server/inference/configs/service--http_forwarder.yaml"
    config.parent.mkdir(parents=True)
    config.write_bytes(UPSTREAM)
    port = free_port()
    # Its ports may be in use on this machine: curl is led to another one, and the forwarder's is an option more.
    (tmp_path / ".curlrc").write_text(f'connect-to = "localhost:5000:127.0.0.1:{port}"\nsilent\nnoproxy = "*"\n')
    variables = os.environ | {"MODEL": MODEL, "CURL_HOME": str(tmp_path), "HOME": str(tmp_path)}
    async with running_double(model="/models/llama", served_model_names=(MODEL,)) as double:
        ports = (f" --set forwarder.{kind}.user_port={double.port}" for kind in ("sync", "stream"))
        text = UPSTREAM_COMMAND.replace(f"GIT_TAG=test {UPSTREAM_PROGRAM}", "")
        forward = await asyncio.create_subprocess_exec(
            *(
                "bash",
                "-c",
                f"GIT_TAG=test exec {sys.executable} -m patio_gateway.forwarder {text} --port {port}{''.join(ports)}",
            ),
            cwd=tmp_path,
            env=variables,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await line_with(forward, "forwarder_started")
            curl = await asyncio.create_subprocess_exec(
                *("bash", "-c", UPSTREAM_CURL), env=variables, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await in_time(curl.communicate())
            async with client_of(port) as client:
                assert (await client.get("/readyz")).status_code == 200
        finally:
            forward.terminate()
            await forward.communicate()
        (call,) = double.calls(CHAT)
    assert curl.returncode == 0
    result = json.loads(json.loads(output)["result"])
    assert (result["object"], result["model"]) == ("chat.completion", MODEL)
    assert result["choices"][0]["message"]["content"]
    assert call.body["guided_regex"] == "Sean.*"
    assert call.body["messages"] == [{"role": "systemr", "content": "Hey, what's the temperature in Paris right now?"}]


async def test_stream_ends_before_the_command_does(tmp_path: Path) -> None:
    port = free_port()
    async with (
        running_double(tokens_per_second=20) as double,
        command(tmp_path, port, double.port) as process,
        client_of(port) as client,
        client.stream("POST", CHAT, json={"args": HELLO | {"max_tokens": 20, "stream": True}}) as answer,
    ):
        chunks = answer.aiter_text()
        text = await in_time(anext(chunks))
        process.send_signal(signal.SIGTERM)
        text += "".join([chunk async for chunk in chunks])
        assert results(text)[-1] == "[DONE]"
        assert "forwarder_stopped" in (log := await rest_of(process))
        assert "Traceback" not in log
        assert await in_time(process.wait()) == 0
        async with client_of(port) as other:
            with pytest.raises(httpx.ConnectError):
                await other.get("/healthz")


@pytest.mark.parametrize("stream", [True, False])
async def test_request_beyond_the_graceful_timeout_is_cut(tmp_path: Path, stream: bool) -> None:
    port = free_port()
    async with (
        running_double(tokens_per_second=0.5) as double,
        command(tmp_path, port, double.port, "--graceful-timeout", "1") as process,
        client_of(port) as client,
    ):
        running = double.engine.core.batch.running
        call = asyncio.create_task(client.post(CHAT, json={"args": HELLO | {"max_tokens": 500, "stream": stream}}))
        await until(lambda: running.total() == 1, "the engine generates")
        process.send_signal(signal.SIGTERM)
        log = await rest_of(process)
        assert await in_time(process.wait()) == 0
        if stream:
            with pytest.raises(httpx.RemoteProtocolError):
                await call
            await until(lambda: running.total() == 0, "the engine stopped")
        else:
            # The double goes on with an answer that is no stream, whatever happens to the connection.
            assert (await call).json() == {"detail": "The forwarder ends. Send the request again."}
    assert f'request_cut path="{CHAT}" started={str(stream).lower()}' in log
    assert "Traceback" not in log


async def test_processes_share_the_limit_and_end_with_it(tmp_path: Path) -> None:
    port = free_port()
    async with (
        running_double(max_num_seqs=8) as double,
        command(tmp_path, port, double.port, "--num-workers", "2", "--set", "forwarder.max_concurrency=3") as process,
    ):
        await in_time(until(lambda: _serves(port), "a process serves"))
        double.engine.core.batch.pause()

        async def call() -> int:
            # A connection each, so that both processes get some.
            async with client_of(port) as client:
                return (await client.post(CHAT, json={"args": HELLO})).status_code

        calls = [asyncio.create_task(call()) for _ in range(12)]
        await until(lambda: sum(each.done() for each in calls) == 9, "nine are rejected")
        process.send_signal(signal.SIGTERM)
        await asyncio.wait(calls, timeout=0.5)
        double.engine.core.batch.resume()
        assert sorted(await asyncio.gather(*calls)) == [200] * 3 + [429] * 9
        assert "Traceback" not in await rest_of(process)
        assert await in_time(process.wait()) == 0


async def _serves(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        async with client_of(port) as client:
            return (await client.get("/healthz")).status_code == 200
    return False


async def test_kill_of_the_command_ends_its_processes(tmp_path: Path) -> None:
    port = free_port()
    async with command(tmp_path, port, free_port(), "--num-workers", "2") as process:
        await in_time(until(lambda: _serves(port), "a process serves"))
        process.kill()
        await process.wait()

        async def ended() -> bool:
            return not await _serves(port)

        await until(ended, "no process serves")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "forwarder.sync.user_prot=1"], "forwarder.sync.user_prot: the forwarder has no such field."),
        (["--set", "forwarder.sync.extra_routes=['/healthz']"], "The route /healthz is a probe"),
        (["--set", "a"], "--set a: expected KEY.PATH=VALUE"),
        (["--host", "example"], "--host example: expected an IP address"),
        (["--port", "0"], "--port 0: expected 1 to 65535."),
        (["--num-workers", "0"], "--num-workers 0: expected 1 to 10000."),
        (["--graceful-timeout", "-1"], "--graceful-timeout -1: expected 0 to 86400."),
        (["--config", "/no/such"], "/no/such cannot be read: No such file or directory."),
        (["--config", "/"], "/ cannot be read: Is a directory."),
    ],
)
def test_bad_input_is_one_sentence_and_ends_with_two(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f.yaml").write_bytes(UPSTREAM)
    assert main(["--config", str(tmp_path / "f.yaml"), *options]) == BAD_INPUT
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


async def test_port_that_is_taken_ends_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.yaml").write_bytes(UPSTREAM)
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with server:
        port = str(server.sockets[0].getsockname()[1])
        assert main(["--config", str(tmp_path / "f.yaml"), "--host", "127.0.0.1", "--port", port]) == FAILED
    assert f"Cannot listen on 127.0.0.1, port {port}: Address already in use." in capsys.readouterr().err


def test_help_explains_every_option() -> None:
    options = [action for action in parser()._actions if action.option_strings]
    assert len(options) == 7
    assert all(action.help for action in options)


def test_command_imports_of_the_gateway_itself_and_small_readers() -> None:
    """It starts in the sidecar's image, which has neither these packages nor the memory for them."""
    code = "import sys, patio_gateway.forwarder.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    tops = {name.partition(".")[0] for name in found}
    assert not tops & {"patio_api", "patio_kube", "kubernetes", "prometheus_client", "patio", "fastapi"}
    own = {name for name in found if re.match(r"patio_gateway\.\w+$", name)}
    shared = {"bounded_body", "logs", "request_bodies", "yaml_text"}
    assert own == {"patio_gateway.forwarder", *(f"patio_gateway.{name}" for name in shared)}

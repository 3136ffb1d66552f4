"""How a sidecar reaches its engine: TLS, a Unix socket, pools of its own, and what it says when it can not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_double import Double, running_double
from patio.drain.planner import CountOutcome
from patio.drain.request_counter import CountSources, RequestCounter
from patio.drain.settings import DrainSettings
from patio.engine.address import read_address
from patio.engine.base import Engine, EngineError
from patio.engine.clients import EngineClients, EngineTls, open_clients
from patio.engine.sglang import Sglang
from patio.engine.vllm import Vllm
from patio_protocol.adapters import UnloadRequest
from patio_protocol.client import SidecarClient
from patio_testing.sidecar.builders import StartSidecar, adapter_files, eventually, load_request
from patio_testing.sidecar.engine_stand_ins import Authority, answering, authority, passing_on, saying

LOAD = "/v1/load_lora_adapter"
QUICK = DrainSettings(timeout=10, settle=0.1)


async def is_ready(client: SidecarClient) -> bool:
    return (await client.ready()).ready


async def waits_for(client: SidecarClient, text: str) -> str:
    async def check() -> str:
        waiting = " ".join((await client.ready()).waiting_for)
        return waiting if text in waiting else ""

    reasons: str = await eventually(check, f"not ready with {text!r}")
    return reasons


@contextlib.asynccontextmanager
async def behind_tls(folder: Path, *names: str, **settings: Any) -> AsyncIterator[tuple[Double, int, Authority]]:
    private = authority(folder / "tls", *names)
    async with running_double(**settings) as double, answering(passing_on(double.port), tls=private.server) as port:
        yield double, port, private


async def test_engine_with_a_ca_of_its_own_is_used(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with behind_tls(tmp_path, "localhost", api_key="k") as (double, port, private):
        settings = {"engine_tls": EngineTls(private.file), "api_key": "k", "drain": QUICK}
        async with sidecar(f"https://localhost:{port}", **settings) as client:
            await eventually(lambda: is_ready(client), "ready over TLS")
            assert (await client.load(load_request("a", path))).state == "Loaded"
            assert double.adapters == {"a": path}
            assert (await client.drain()).drained


@pytest.mark.parametrize("tls", [{"server_name": "engine.example.com"}, {"verify": False}])
async def test_certificate_for_another_name_can_be_used(
    tls: dict[str, Any], sidecar: StartSidecar, tmp_path: Path
) -> None:
    async with behind_tls(tmp_path, "engine.example.com") as (_, port, private):
        engine_tls = EngineTls(None if "verify" in tls else private.file, **tls)
        async with sidecar(f"https://127.0.0.1:{port}", engine_tls=engine_tls) as client:
            await eventually(lambda: is_ready(client), "ready over TLS")


async def test_untrusted_certificate_is_not_reported_as_no_listener(sidecar: StartSidecar, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        _, port, _ = await stack.enter_async_context(behind_tls(tmp_path, "localhost"))
        async with sidecar(f"https://localhost:{port}", drain=QUICK) as client:
            reasons = await waits_for(client, "TLS")
            assert "Nothing listens" not in reasons
            assert "unable to get local issuer certificate" in reasons
            assert "ENGINE_CA_FILE" in reasons
            await client.load(load_request("a", "/adapters/a", wait=0))
            assert not (await client.unload(UnloadRequest(lora_name="a", wait=0))).unloaded
            answer = await client.drain(0.8)
            assert (answer.drained, answer.running) == (False, None)
            assert "does not answer" in answer.message


async def test_wrong_name_and_wrong_scheme_are_reported(sidecar: StartSidecar, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        _, port, private = await stack.enter_async_context(behind_tls(tmp_path, "engine.example.com"))
        async with sidecar(f"https://127.0.0.1:{port}", engine_tls=EngineTls(private.file)) as client:
            assert "ENGINE_TLS_SERVER_NAME" in await waits_for(client, "certificate is not valid for")
    async with answering(saying(b"")) as port, sidecar(f"http://127.0.0.1:{port}") as client:
        await waits_for(client, "If the engine speaks TLS, begin its URL with https://")


async def test_engine_on_a_unix_socket_is_used(sidecar: StartSidecar, tmp_path: Path) -> None:
    path, socket = adapter_files(tmp_path / "a"), tmp_path / "vllm.sock"
    async with running_double() as double, sidecar(f"unix://{socket}", drain=QUICK) as client:
        await waits_for(client, f"Nothing listens at unix://{socket}")
        async with answering(passing_on(double.port), socket=socket):
            await eventually(lambda: is_ready(client), "ready through the socket")
            assert (await client.load(load_request("a", path))).state == "Loaded"
            metrics = await client._http.get("http://sidecar/metrics")
            assert "patio:engine_up 1.0" in metrics.text
            assert (await client.drain()).drained


async def test_many_waiting_loads_delay_no_poll(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await eventually(lambda: is_ready(client), "ready")
        double.fault(LOAD, delay=60.0)
        for number in range(140):
            await client.load(load_request(f"a{number}", path, wait=0))
        polls = len(double.calls("/health"))

        async def is_polled_again() -> bool:
            return len(double.calls("/health")) >= polls + 4

        # Three looks without an answer would make it not ready.
        await eventually(is_polled_again, "four more polls of its readiness")
        assert await is_ready(client)
        assert "patio:engine_up 1.0" in (await client._http.get("http://sidecar/metrics")).text


async def test_each_kind_of_call_has_a_pool_of_its_own() -> None:
    async with contextlib.AsyncExitStack() as stack:
        double = await stack.enter_async_context(running_double())
        clients = open_clients(read_address(str(double)), EngineTls())
        stack.push_async_callback(clients.close)
        assert len({id(client) for client in (clients.polls, clients.orders, clients.drains)}) == 3
        for client in (clients.polls, clients.orders, clients.drains):
            assert (await client.get(f"{double}/health")).status_code == 200
            assert not client.follow_redirects
            assert not client.trust_env


async def test_cancelled_polls_do_not_block_the_next_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    # httpcore 1 keeps a connection that it gave to a waiting request just when that was given up, and never uses it.
    monkeypatch.setattr("patio.engine.http.POLL_SECONDS", 0.05)
    hangs = True

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            if hangs:
                await asyncio.sleep(3600)
            writer.write(body(b'{"data": []}'))

    async with answering(answer) as port:
        url = f"http://127.0.0.1:{port}"
        clients = open_clients(read_address(url), EngineTls())
        engine = Vllm(url, clients.polls, None, clients.orders)
        for _ in range(5):
            views = await asyncio.gather(*(engine.view() for _ in range(200)))
            assert all(view.unreliable for view in views)
        hangs = False
        monkeypatch.setattr("patio.engine.http.POLL_SECONDS", 20.0)
        view = await engine.view()
        assert view.ready, view.problem
        await clients.close()


def contexts(clients: EngineClients) -> set[int]:
    transports = (client._transport for client in (clients.polls, clients.orders, clients.drains))
    return {
        id(transport._pool._ssl_context) for transport in transports if isinstance(transport, httpx.AsyncHTTPTransport)
    }


@pytest.mark.parametrize(("url", "checked"), [("http://localhost:1", 0), ("https://localhost:1", 1)])
async def test_one_context_serves_all_and_http_has_no_cas(url: str, checked: int) -> None:
    clients = open_clients(read_address(url), EngineTls())
    transport = clients.polls._transport
    assert isinstance(transport, httpx.AsyncHTTPTransport)
    context = transport._pool._ssl_context
    assert context is not None
    assert len(contexts(clients)) == 1
    assert bool(context.get_ca_certs()) is bool(checked)
    await clients.close()


HEAD = b"HTTP/1.1 200 OK\r\n"


def body(content: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


HOSTILE = {
    "nothing": b"",
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "half a header": b"HTTP/1.1 200",
    "half an answer": HEAD + b"content-length: 100\r\n\r\nhalf",
    "two lengths": HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nx",
    "a bad chunk": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "a status of none": b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "a redirect": b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
    "a redirect to nowhere": b"HTTP/1.1 302 Found\r\nlocation: http://[\r\ncontent-length: 0\r\n\r\n",
    "wait": body(b"", "429 Too Many Requests\r\nretry-after: 99999999999"),
    "brackets": body(b"[" * 100_000),
    "brackets as a fault": body(b'{"error":' * 50_000, "500 Internal Server Error"),
    "no utf-8": body(b"\xff\xfe\x00{", "500 Internal Server Error", "text/plain; charset=utf-16"),
    "a charset of none": body(b"{}", kind="text/plain; charset=no-such-codec"),
    "half a surrogate": body(
        b'{"error": {"message": "\\ud800"}, "error_message": "\\udfff"}', "500 Internal Server Error"
    ),
    "a list of a list": body(b'[[{"data": []}]]'),
    "wrong types": body(b'{"data": [1, null, {"id": {}}], "loaded_adapters": [1], "success": "yes", "loads": 7}'),
    "success that is none": body(b'{"success": true, "loaded_adapters": {"a": 7}, "data": null}'),
    "gzip that is none": HEAD + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nnone",
    "a large number": body(b"1" * 5000),
    "numbers that are none": body(
        b'{"data": [], "num_reqs": NaN, "max_loras_per_batch": 1e999, "loads": [{"num_running_reqs": 1e999}]}'
    ),
}


async def error_message(call: Awaitable[object]) -> str | None:
    try:
        await call
    except EngineError as fault:
        return fault.message
    return None


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_whatever_an_engine_answers_is_a_view_or_a_fault(kind: str, answer: bytes) -> None:
    async with answering(saying(answer)) as port:
        url = f"http://127.0.0.1:{port}"
        clients = open_clients(read_address(url), EngineTls())
        engine: Engine = Vllm(url, clients.polls, "k", clients.orders)
        if kind == "sglang":
            engine = Sglang(url, clients.polls, "k", None, None, clients.orders)
        view = await engine.view()
        assert view.listening, "something does listen"
        assert len(view.problem.encode()) < 5000
        for call in (engine.load("a", "/a"), engine.replace("a", "/a"), engine.unload("a"), engine.capacity()):
            message = await error_message(call)
            assert message is None or 0 < len(message.encode()) < 5000
        sources = CountSources(url, "/metrics", ("x:running",), ("x:waiting",), loads=kind == "sglang")
        assert (await RequestCounter(sources, clients.drains).count()).outcome is not CountOutcome.GONE
        await clients.close()

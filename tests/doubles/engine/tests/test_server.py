"""Faults, crashes, restarts, and the double as a process of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from engine_double import running_double
from engine_double.cli import settings_from
from engine_double.samples import write_adapter
from engine_double.settings import EngineKind
from inference_server.ports import free_port
from inference_server.supervision import EngineProcess
from patio_testing.deadline import DEADLINE
from patio_testing.kube import until
from patio_testing.local_servers import engine_double, logged


async def test_fault_is_applied_as_often_as_ordered() -> None:
    async with running_double() as double, httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client:
        double.fault("/v1/models", status=503, body="busy", times=2)
        answers = [(await client.get("/v1/models")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 503, 200]
        assert answers[0].text == "busy"
        assert [call.status for call in double.calls("/v1/models")] == [503, 503, 200]


async def test_lost_answer_took_effect_all_the_same(tmp_path: Path) -> None:
    async with running_double() as double, httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client:
        double.fault("/v1/load_lora_adapter", status=502, after=True, times=1)
        path = str(write_adapter(tmp_path / "a"))
        answer = await client.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": path})
        assert answer.status_code == 502
        assert double.adapters == {"a": path}


async def test_delay_alone_leaves_the_answer_to_the_engine() -> None:
    async with running_double() as double, httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client:
        double.fault("/version", delay=0.2)
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/version", timeout=0.05)
        assert (await client.get("/version", timeout=DEADLINE)).json() == {"version": "0.32.0"}


async def test_control_surface_orders_the_same_over_http(tmp_path: Path) -> None:
    async with (
        running_double(engine="sglang", api_key="sk") as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as http,
    ):
        order = {"path": "/ready", "status": 500, "times": 1}
        assert (await http.post("/_double/faults", json=order)).status_code == 200
        assert len((await http.get("/_double/faults")).json()) == 1
        assert [(await http.get("/ready")).status_code for _ in range(2)] == [500, 200]
        assert (await http.post("/_double/faults", json={"path": "/ready"})).status_code == 400
        assert (await http.post("/_double/faults", json={"status": 500})).status_code == 400
        requests = (await http.get("/_double/requests", params={"path": "/ready"})).json()
        assert [request["status"] for request in requests] == [500, 200]
        path = str(write_adapter(tmp_path / "a"))
        key = {"Authorization": "Bearer sk"}
        await http.post("/load_lora_adapter", json={"lora_name": "a", "lora_path": path}, headers=key)
        assert (await http.get("/_double/state")).json()["adapters"] == {"a": path}
        assert (await http.post("/_double/forget")).json() == {"adapters": {}}


async def test_crash_breaks_connections_and_a_restart_forgets(tmp_path: Path) -> None:
    async with (
        running_double(tokens_per_second=20) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        path = str(write_adapter(tmp_path / "a"))
        await client.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": path})
        body = {"model": "a", "prompt": "hello world", "max_tokens": 400}
        request = asyncio.create_task(client.post("/v1/completions", json=body))
        async with asyncio.timeout(DEADLINE):
            await double.engine.core.batch.until_running(1)
        await double.crash()
        with pytest.raises(httpx.TransportError):
            await request
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")
        await double.start()
        assert (await client.get("/health")).status_code == 200
        assert double.adapters == {}


async def test_port_is_closed_until_the_engine_has_started() -> None:
    async with running_double() as double:
        await double.crash()
        double._settings = type(double._settings)(startup_seconds=3600.0, port=double.port)
        starting = asyncio.create_task(double.start())
        async with httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/health")
        starting.cancel()


def test_command_lines_of_both_engines_are_understood() -> None:
    settings, ignored = settings_from(
        ["vllm", "serve", "/models/tiny", "--enable-lora", "--max-loras", "4", "--dtype", "bfloat16", "--api-key", "k"],
        {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
    )
    assert (settings.engine, settings.model, settings.max_loras) == (EngineKind.VLLM, "/models/tiny", 4)
    assert settings.served_model_names == ("/models/tiny",)
    assert (settings.enable_lora, settings.runtime_lora, settings.api_key) == (True, True, "k")
    assert ignored == ["--dtype", "bfloat16"]
    settings, ignored = settings_from(
        ["-m", "sglang.launch_server", "--model-path", "/m", "--served-model-name", "tiny", "--lora-paths", "a=/x"], {}
    )
    assert (settings.engine, settings.model, settings.base_model) == (EngineKind.SGLANG, "/m", "tiny")
    assert settings.lora_modules == (("a", "/x"),)
    assert not settings.enable_metrics
    assert not ignored


def test_key_is_not_printed() -> None:
    settings, _ = settings_from(["--api-key", "sekret", "--admin-api-key", "sekret"], {})
    assert "sekret" not in repr(settings)


@contextmanager
def process(folder: Path, *arguments: str, wait: bool = True) -> Iterator[tuple[EngineProcess, httpx.Client]]:
    """A double of its own; waited for until it answers, or until it has said its first line."""
    server = engine_double("engine", folder, free_port(), *arguments)
    server.launch()
    assert server.process is not None
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        try:
            until("its first line", lambda: "engine double: " in logged(server), within=DEADLINE)
            if wait:
                until("an answer", lambda: client.get("/health").is_success, within=DEADLINE)
            yield server.process, client
        finally:
            server.kill()


def test_process_ends_well_on_sigterm(tmp_path: Path) -> None:
    with process(tmp_path, "--engine", "sglang", "--health-seconds", "0") as (running, _):
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=DEADLINE) == 0


def test_process_that_still_starts_ends_on_sigterm_too(tmp_path: Path) -> None:
    with process(tmp_path, "--startup-seconds", "3600", wait=False) as (running, client):
        with pytest.raises(httpx.ConnectError):
            httpx.get(client.base_url)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=DEADLINE) == 0


def test_process_dies_when_a_crash_is_ordered(tmp_path: Path) -> None:
    with process(tmp_path, "--engine", "vllm") as (running, client):
        with suppress(httpx.TransportError):  # the answer may or may not make it
            client.post("/_double/crash")
        assert running.wait(timeout=DEADLINE) == 137

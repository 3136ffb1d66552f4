"""The sidecar as a process of its own, beside an engine double as another: starts, ends, crashes of either."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_server import CustomServer
from inference_server.ports import free_port
from patio_protocol.client import SidecarClient
from patio_protocol.errors import SidecarError
from patio_testing.deadline import DEADLINE
from patio_testing.local_servers import engine_double
from patio_testing.sidecar.builders import adapter_files, eventually, load_request


@dataclass
class Pod:
    """An engine double and a sidecar, each started and ended on its own."""

    folder: Path
    http: httpx.AsyncClient
    engine_port: int
    sidecar_port: int
    engine: CustomServer | None = None
    sidecar: asyncio.subprocess.Process | None = None

    @property
    def client(self) -> SidecarClient:
        return SidecarClient(f"http://127.0.0.1:{self.sidecar_port}", self.http)

    async def start_engine(self) -> None:
        flags = ("--engine", "vllm", "--served-model-name", "tiny", "--enable-lora")
        self.engine = engine_double("engine", self.folder / "engine", self.engine_port, *flags)
        await asyncio.to_thread(self.engine.launch)

    async def start_sidecar(self, *argv: str, **variables: str) -> None:
        self.sidecar = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "patio.app", "--host", "127.0.0.1", "--port", str(self.sidecar_port), *argv),
            env={
                **os.environ,
                "INFERENCE_ENGINE": "vllm",
                "INFERENCE_ENGINE_ENDPOINT": f"http://127.0.0.1:{self.engine_port}",
                "PATIO_STATE_FILE": str(self.folder / "state" / "state.json"),
                **variables,
            },
            stderr=(self.folder / "sidecar.log").open("ab"),
        )

    async def ready(self) -> None:
        last: Any = None

        async def check() -> bool:
            nonlocal last
            with contextlib.suppress(SidecarError):
                last = await self.client.ready()
                return bool(last.ready)
            return False

        try:
            await eventually(check, "the pod is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}; {last}; {(self.folder / 'sidecar.log').read_text()[-2000:]}") from None

    async def metrics(self) -> list[str]:
        return (await self.http.get(f"http://127.0.0.1:{self.sidecar_port}/metrics")).text.splitlines()

    async def models(self) -> set[str]:
        answer = await self.http.get(f"http://127.0.0.1:{self.engine_port}/v1/models")
        return {model["id"] for model in answer.json()["data"]} - {"tiny"}


async def kill(process: asyncio.subprocess.Process | CustomServer | None) -> None:
    if isinstance(process, CustomServer):
        await asyncio.to_thread(process.kill)
    elif process is not None and process.returncode is None:
        process.kill()
        await process.wait()


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    async with httpx.AsyncClient() as http:
        pod = Pod(tmp_path, http, free_port(), free_port())
        try:
            yield pod
        finally:
            await kill(pod.sidecar)
            await kill(pod.engine)


async def test_adapters_survive_death_of_engine_sidecar_and_both(pod: Pod) -> None:
    paths = {name: adapter_files(pod.folder / name) for name in ("required", "later")}
    required = json.dumps(
        [{"lora_name": "required", "lora_path": paths["required"], "owner": "LoraAdapter/x/required"}]
    )
    variables = {"PATIO_REQUIRED_ADAPTERS": required}
    await pod.start_engine()
    await pod.start_sidecar(**variables)
    await pod.ready()
    await pod.client.load(load_request("later", paths["later"]))
    assert await pod.models() == set(paths)

    await kill(pod.engine)

    async def down() -> bool:
        return not (await pod.client.ready()).ready

    await eventually(down, "the sidecar notices")
    metrics = await pod.metrics()
    assert 'patio:engine_info{inference_engine="vllm",model_name="tiny"} 1.0' in metrics, "also while it is down"
    assert "patio:engine_restarts_total 0.0" in metrics
    await pod.start_engine()
    await pod.ready()
    metrics = await pod.metrics()
    assert "patio:engine_restarts_total 1.0" in metrics
    assert any(line.startswith("patio:engine_start_seconds ") for line in metrics)
    assert await pod.models() == set(paths)

    await kill(pod.sidecar)
    await pod.start_sidecar(**variables)
    await pod.ready()
    assert await pod.models() == set(paths)

    await kill(pod.engine)
    await kill(pod.sidecar)
    await pod.start_engine()
    await pod.start_sidecar(**variables)
    await pod.ready()
    assert await pod.models() == set(paths)


async def test_sigterm_ends_the_process_cleanly_and_long_polls_with_it(pod: Pod) -> None:
    await pod.start_engine()
    await pod.start_sidecar()
    await pod.ready()
    revision = (await pod.client.adapters()).revision
    polling = asyncio.create_task(pod.client.adapters(revision=revision, wait=60))
    await pod.client.status()
    assert pod.sidecar is not None
    pod.sidecar.send_signal(signal.SIGTERM)
    assert (await asyncio.wait_for(polling, DEADLINE)).revision == revision
    assert await asyncio.wait_for(pod.sidecar.wait(), DEADLINE) == 0
    assert "Traceback" not in (pod.folder / "sidecar.log").read_text()


async def test_taken_port_is_one_line_and_exit_code_2(pod: Pod) -> None:
    with socket.create_server(("127.0.0.1", pod.sidecar_port)):
        await pod.start_sidecar()
        assert pod.sidecar is not None
        assert await asyncio.wait_for(pod.sidecar.wait(), DEADLINE) == 2
    log = (pod.folder / "sidecar.log").read_text()
    assert "cannot listen" in log
    assert log.count("\n") == 1


async def test_logs_are_json_when_asked_for_and_have_no_secret(pod: Pod) -> None:
    await pod.start_engine()
    secrets = {"ACCESS_KEY": "AKIA", "SECRET_KEY": "s3_sekret", "HF_AUTH_TOKEN": "hf_sekret"}
    await pod.start_sidecar("--log-format", "json", **secrets)
    await pod.ready()
    log = (pod.folder / "sidecar.log").read_text()
    assert any(json.loads(line)["message"].startswith("serving ") for line in log.splitlines())
    assert not [secret for secret in secrets.values() if secret in log]


async def test_off_switch_warns_at_the_start_and_delays_no_end(pod: Pod) -> None:
    await pod.start_engine()
    await pod.start_sidecar("--access-control", "off")
    await pod.ready()
    assert (await pod.client.status()).access_control_enforced is False
    assert pod.sidecar is not None
    pod.sidecar.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(pod.sidecar.wait(), DEADLINE) == 0
    log = (pod.folder / "sidecar.log").read_text()
    assert log.count("WARNING patio.access.metrics access control is off") == 1

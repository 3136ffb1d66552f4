"""Real routers, engine doubles and sidecars as processes on 127.0.0.1, for the tests of the topology."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from inference_server import InferenceServer
from inference_server.ports import free_port
from patio_protocol.client import SidecarClient
from patio_protocol.errors import SidecarError
from patio_protocol.topology import TopologyReport
from patio_testing.deadline import DEADLINE
from patio_testing.local_servers import engine_double
from patio_testing.sidecar.builders import eventually

ASK_EVERY = 0.1
"""Seconds between questions to processes that have better things to do."""

Process = asyncio.subprocess.Process

ROUTERS = {"sglang-router": "sglang_router.launch_router", "smg": "smg.launch_router"}


@dataclass
class Machine:
    """Everything that one test has started."""

    folder: Path
    http: httpx.AsyncClient
    started: list[Process | InferenceServer] = field(default_factory=list)

    async def start(self, log: str, *argv: str, **variables: str) -> Process:
        with (self.folder / f"{log}.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *argv, env={**os.environ, **variables}, stdout=output, stderr=output
            )
        self.started.append(process)
        return process

    async def answers(self, url: str, process: Process | InferenceServer | None = None) -> None:
        async def check() -> bool:
            assert process is None or runs(process), f"who should answer at {url} has ended"
            with contextlib.suppress(httpx.HTTPError):
                return (await self.http.get(url)).is_success
            return False

        await eventually(check, f"{url} answers", every=ASK_EVERY)

    def read_log(self, log: str) -> str:
        return (self.folder / f"{log}.log").read_text()


@contextlib.asynccontextmanager
async def machine(folder: Path) -> AsyncIterator[Machine]:
    async with httpx.AsyncClient() as http:
        made_machine = Machine(folder, http)
        try:
            yield made_machine
        finally:
            for process in made_machine.started:
                await kill(process)


def runs(process: Process | InferenceServer) -> bool:
    if isinstance(process, InferenceServer):
        return process.process is not None and process.process.poll() is None
    return process.returncode is None


async def kill(*processes: Process | InferenceServer | None) -> None:
    for process in processes:
        if isinstance(process, InferenceServer):
            await asyncio.to_thread(process.kill)
        elif process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@dataclass
class RouterProcess:
    """A real router."""

    machine: Machine
    kind: str
    arguments: tuple[str, ...] = ()
    key: str | None = None
    port: int = field(default_factory=free_port)
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()))
        key = () if self.key is None else ("--api-key", self.key)
        self.process = await self.machine.start(
            f"{self.kind}-{self.port}",
            *("-m", ROUTERS[self.kind], "--host", "127.0.0.1", "--port", str(self.port), *metrics),
            *("--policy", "round_robin", *key, *self.arguments),
        )
        await self.machine.answers(f"{self.url}/health", self.process)

    async def workers(self) -> dict[str, dict[str, Any]]:
        """What it lists, by URL; nothing of it is remembered from one start to the next."""
        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        answer = await self.machine.http.get(f"{self.url}/workers", headers=headers)
        return {worker["url"]: worker for worker in answer.raise_for_status().json()["workers"]}

    async def lists(self, *urls: str) -> None:
        """Wait until it sends requests to these. What smg drains is no longer one of them, though listed for 5 s."""

        async def check() -> bool:
            return {url for url, worker in (await self.workers()).items() if worker["is_healthy"]} == set(urls)

        try:
            await eventually(check, f"{self.kind} lists {urls}", every=ASK_EVERY)
        except AssertionError as error:
            raise AssertionError(f"{error}; it lists {await self.workers()}") from None

    async def complete(self, **fields: Any) -> httpx.Response:
        body = {"model": "tiny", "prompt": "once upon a time", "max_tokens": 4, **fields}
        return await self.machine.http.post(f"{self.url}/v1/completions", json=body, timeout=DEADLINE)


@dataclass
class PodProcesses:
    """An engine double and the sidecar beside it."""

    machine: Machine
    name: str
    engine_kind: str = "vllm"
    variables: dict[str, str] = field(default_factory=dict)
    sidecar_flags: tuple[str, ...] = ()
    engine_port: int = field(default_factory=free_port)
    sidecar_port: int = field(default_factory=free_port)
    engine: InferenceServer | None = None
    sidecar: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"

    @property
    def client(self) -> SidecarClient:
        return SidecarClient(f"http://127.0.0.1:{self.sidecar_port}", self.machine.http)

    async def start_engine(self, *flags: str) -> None:
        known = (
            "--engine",
            self.engine_kind,
            "--enable-metrics",
            "--served-model-name",
            "tiny",
            "--health-seconds",
            "0",
        )
        folder = self.machine.folder / f"{self.name}-engine"
        self.engine = engine_double("engine", folder, self.engine_port, *known, *flags)
        self.machine.started.append(self.engine)
        await asyncio.to_thread(self.engine.launch)

    async def start_sidecar(self, **variables: str) -> None:
        folder = self.machine.folder / self.name
        self.sidecar = await self.machine.start(
            f"{self.name}-sidecar",
            *("-m", "patio.app", "--host", "127.0.0.1", "--port", str(self.sidecar_port), *self.sidecar_flags),
            **{
                "INFERENCE_ENGINE": self.engine_kind,
                "INFERENCE_ENGINE_ENDPOINT": self.url,
                "PATIO_STATE_FILE": str(folder / "state.json"),
                "POD_IP": "127.0.0.1",
                "POD_NAME": self.name,
                "POD_NAMESPACE": "team-a",
                "TOPO_TYPE": "SGLang",
                **self.variables,
                **variables,
            },
        )

    async def start(self) -> None:
        await self.start_engine()
        await self.start_sidecar()

    async def topology(self) -> TopologyReport | None:
        with contextlib.suppress(SidecarError):
            return await self.client.topology()
        return None

    async def reaches(self, state: str, reason: str | None = None) -> None:
        async def check() -> Any:
            report = await self.topology()
            if report is None or len(report.registrations) != 1:
                return None
            (found,) = report.registrations
            return found.state == state and reason in (None, found.reason)

        try:
            await eventually(check, f"{self.name} is {state}", every=ASK_EVERY)
        except AssertionError as error:
            log = self.machine.read_log(f"{self.name}-sidecar")[-2000:]
            raise AssertionError(f"{error}; {await self.topology()}; {log}") from None

    async def terminate_sidecar(self) -> int:
        assert self.sidecar is not None
        self.sidecar.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.sidecar.wait(), DEADLINE)


async def start_busy_pod(machine: Machine, tokens_per_second: int) -> tuple[PodProcesses, asyncio.Task[httpx.Response]]:
    """Start a pod outside of routers; return it and the request of thirty tokens that its engine is busy with."""
    pod = PodProcesses(machine, "pod-0", variables={"TOPO_TYPE": "none", "PATIO_DRAIN_SETTLE": "0.3"})
    await pod.start_engine("--tokens-per-second", str(tokens_per_second))
    await machine.answers(f"{pod.url}/health")
    await pod.start_sidecar()
    await machine.answers(f"http://127.0.0.1:{pod.sidecar_port}/ready")
    body = {"model": "tiny", "prompt": "a", "max_tokens": 30}
    request = asyncio.create_task(machine.http.post(f"{pod.url}/v1/completions", json=body, timeout=DEADLINE))

    async def busy() -> bool:
        return bool((await machine.http.get(f"{pod.url}/_double/state")).json()["running"])

    await eventually(busy, "the request runs")
    return pod, request

"""`make bench-adapters`: what many adapters on one pod cost its sidecar.

An engine double in a process of its own, a sidecar that must have N adapters from its start, and a caller that polls
the list as the operator does. Told are the time until all are loaded, beside the time in which the engine takes them
from a bare client; the sidecar's CPU until then and while nothing changes; and how long its event loop was held.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.run import ROOT, cpu, healthy, resident, table
from engine_double.samples import write_adapter
from inference_server.ports import free_port

LOAD = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
AT_ONCE = 8
"""Loads that the bare client has in progress."""
LONGEST = 240.0
IDLE_SECONDS = 5.0


@dataclass(frozen=True)
class Found:
    """One measurement."""

    alone: float
    ready: float
    loaded: int
    cpu: float
    idle: float
    memory: float
    answers: int
    longest: float
    longest_cpu: float


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, action="append", help="on the pod; may be repeated (100, 1000)")
    parser.add_argument("--engine", choices=("vllm", "sglang"), action="append", help="(both)")
    arguments = parser.parse_args()
    rows = []
    for engine in arguments.engine or ("vllm", "sglang"):
        for number in arguments.adapters or (100, 1_000):
            with tempfile.TemporaryDirectory() as folder:
                found = measure(engine, number, Path(folder))
            rows.append(
                (
                    *(engine, f"{number:,}", f"{found.loaded:,}", f"{found.alone:.1f} s", f"{found.ready:.1f} s"),
                    *(f"{found.cpu:.1f} s", f"{found.idle * 100:.1f} %", f"{found.memory:.0f} MB", f"{found.answers}"),
                    *(f"{found.longest * 1000:.0f} ms", f"{found.longest_cpu * 1000:.0f} ms"),
                )
            )
    head = ("engine", "adapters", "loaded", "engine alone", "all ready", "CPU until then", "CPU afterwards", "memory")
    table("Many adapters on one pod", (*head, "answers to a poller", "loop held", "of that CPU"), rows)


def measure(engine: str, number: int, folder: Path) -> Found:
    """Load so many adapters by a bare client, then by a sidecar beside a fresh engine."""
    paths = {f"a{index}": str(write_adapter(folder / f"a{index}")) for index in range(number)}
    with double(engine) as port:
        alone = asyncio.run(load_all(f"http://127.0.0.1:{port}{LOAD[engine]}", paths))
    required = json.dumps([{"lora_name": name, "lora_path": path, "revision": "1"} for name, path in paths.items()])
    with double(engine) as port:
        sidecar_port, report_file = free_port(), folder / "report.json"
        command = (
            *(sys.executable, "-m", "benchmarks.watched_sidecar", str(report_file), "--host", "127.0.0.1"),
            *("--port", str(sidecar_port), "--engine", engine, "--engine-base-url", f"http://127.0.0.1:{port}"),
        )
        variables = {"PATIO_STATE_FILE": str(folder / "state.json"), "PATIO_REQUIRED_ADAPTERS": required}
        with subprocess.Popen(
            command, env={**os.environ, **variables}, cwd=ROOT, stderr=(folder / "log").open("wb")
        ) as sidecar:
            began = time.monotonic()
            healthy(sidecar_port, sidecar)
            sidecar.send_signal(signal.SIGUSR1)
            loaded, answers = asyncio.run(until_loaded(sidecar_port, number))
            ready, used = time.monotonic() - began, cpu(sidecar.pid)
            time.sleep(IDLE_SECONDS)
            idle = (cpu(sidecar.pid) - used) / IDLE_SECONDS
            memory = resident(sidecar.pid)
            sidecar.terminate()
        held = json.loads(report_file.read_text())
    return Found(alone, ready, loaded, used, idle, memory, answers, held["longest"], held["longest_cpu"])


async def load_all(url: str, paths: dict[str, str]) -> float:
    """Load all, some at a time; return the seconds."""
    turn = asyncio.Semaphore(AT_ONCE)
    began = time.monotonic()

    async def load(http: httpx.AsyncClient, name: str, path: str) -> None:
        async with turn:
            (await http.post(url, json={"lora_name": name, "lora_path": path}, timeout=60)).raise_for_status()

    async with httpx.AsyncClient() as http:
        await asyncio.gather(*(load(http, name, path) for name, path in paths.items()))
    return time.monotonic() - began


async def until_loaded(port: int, number: int) -> tuple[int, int]:
    """Poll as the operator does until all are loaded; return how many are, and how many answers there were."""
    url, revision, answers, loaded = f"http://127.0.0.1:{port}", "", 0, 0
    until = time.monotonic() + LONGEST
    async with httpx.AsyncClient() as http:
        while loaded < number and time.monotonic() < until:
            answer = await http.get(f"{url}/v1/lora_adapters?revision={revision}&wait=10", timeout=60)
            listed, answers = answer.json(), answers + 1
            revision = listed["revision"]
            loaded = sum(report["state"] == "Loaded" for report in listed["adapters"])
        while not (await http.get(f"{url}/ready", timeout=60)).is_success and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return loaded, answers


@contextlib.contextmanager
def double(engine: str) -> Iterator[int]:
    """Run an engine double; give its port."""
    port = free_port()
    command: Sequence[str] = (
        *(sys.executable, "-m", "engine_double", "--engine", engine, "--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", "tiny", "--enable-lora", "--health-seconds", "0"),
    )
    environment = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            healthy(port, process)
            yield port
        finally:
            process.terminate()


if __name__ == "__main__":
    main()

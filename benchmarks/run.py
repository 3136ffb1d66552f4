"""`make bench`: what the sidecar costs, next to a sidecar that parses metrics into objects, in the same run.

Four measurements: the transform alone, a scrape through HTTP, memory, and the time to `/health`. Every number of the
sidecar stands beside the baseline's (see `baseline`), taken in turns with it, so that a busy machine does to both what
it does to one. Prints tables for docs/project/benchmarks.md; nothing of the machine but its cores is told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import baseline
from inference_server.ports import free_port
from patio.metrics.mappings import SOURCES, STANDARD
from patio.metrics.rewrite import compile_rules, rewrite
from patio_protocol.engines import EngineKind

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT / "tests/doubles/engine/src/engine_double/recordings"
TEXTS = {EngineKind.VLLM: "vllm/metrics-0.32.0.txt", EngineKind.SGLANG: "sglang/metrics_busy.txt"}
CONNECTIONS = (1, 4, 32)
IDLE_SECONDS = 3.0


@dataclass(frozen=True)
class Program:
    """A process to measure, and how it is started for one engine."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("transform", "http", "memory", "start"), action="append")
    parser.add_argument("--scrapes", type=int, default=2_000, help="scrapes before memory is read again (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of scraping for each latency (%(default)s)")
    arguments = parser.parse_args()
    chosen = arguments.only or ("transform", "http", "memory", "start")
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {load}")
    if "transform" in chosen:
        transform()
    if "http" in chosen:
        over_http(arguments.seconds)
    if "memory" in chosen:
        memory(arguments.scrapes)
    if "start" in chosen:
        start()


def transform() -> None:
    """Time of one transform, with both ways in turns."""
    rows = []
    for engine, file in TEXTS.items():
        text = (RECORDINGS / file).read_bytes()
        rules = compile_rules(engine, ("patio",))
        check(text, engine)
        sidecar_times, baseline_times = in_turns(
            partial(rewrite, text, rules), partial(baseline.transform, text, engine)
        )
        sizes = f"{len(text) / 1000:.0f} KB"
        rows.append(
            (
                f"{engine.value}, {sizes}",
                f"{baseline_times.median / sidecar_times.median:.0f}x",
                sidecar_times.summary("ms"),
                baseline_times.summary("ms"),
            )
        )
    table("Transform of one scrape: median (fastest)", ("text", "baseline / sidecar", "sidecar", "baseline"), rows)


def check(text: bytes, engine: EngineKind) -> None:
    """Refuse to compare what is not the same: every standard sample of the baseline is one of the sidecar's."""

    def samples(out: bytes) -> set[tuple[str, str, str]]:
        families = text_string_to_metric_families(out.decode())
        found = (sample for family in families for sample in family.samples if sample.name.startswith("patio:"))
        return {(sample.name, str(sorted(sample.labels.items())), str(sample.value)) for sample in found}

    sidecar_samples = samples(rewrite(text, compile_rules(engine, ("patio",))).text)
    baseline_samples = samples(baseline.transform(text, engine))
    renames = sum(1 for row in STANDARD if any(isinstance(source, str) for source in SOURCES[engine].get(row.name, ())))
    if not baseline_samples or not baseline_samples <= sidecar_samples or renames < 15:
        raise SystemExit(f"the baseline does not do the same: {sorted(baseline_samples - sidecar_samples)[:3]}")


@dataclass(frozen=True)
class Times:
    """Times of one thing, in milliseconds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def at(self, part: float) -> float:
        """Return the one that this part of all is not above."""
        return sorted(self.values)[min(int(part * len(self.values)), len(self.values) - 1)]

    def summary(self, unit: str) -> str:
        """Median and fastest."""
        return f"{self.median:.2f} {unit} ({min(self.values):.2f})"


def in_turns(first: Callable[[], object], other: Callable[[], object], seconds: float = 4.0) -> tuple[Times, Times]:
    """Time two functions, one after the other again and again."""
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for function, found in zip((first, other), times, strict=True):
            for _ in range(20 if function is first else 1):
                began = time.perf_counter()
                function()
                found.append((time.perf_counter() - began) * 1000)
    return Times(tuple(times[0])), Times(tuple(times[1]))


def over_http(seconds: float) -> None:
    """Latency of scrapes that follow one another on some connections, against asking the engine itself."""
    rows = []
    for engine in TEXTS:
        with engine_of(engine) as port, contextlib.ExitStack() as stack:
            programs = [stack.enter_context(running(program)) for program in both(engine, port)]
            for connections in CONNECTIONS:
                direct = asyncio.run(scrapes(port, connections, seconds))
                (sidecar_times, sidecar_cpu), (baseline_times, baseline_cpu) = (
                    costs(program, connections, seconds) for program in programs
                )
                added, more = sidecar_times.median - direct.median, baseline_times.median - direct.median
                rows.append(
                    (
                        *(engine.value, str(connections), f"{more / added:.0f}x", f"{baseline_cpu / sidecar_cpu:.0f}x"),
                        *(f"{added:.2f} ms", f"{more:.2f} ms", f"{sidecar_cpu:.2f} ms", f"{baseline_cpu:.2f} ms"),
                        f"{direct.median:.2f} ms",
                    )
                )
    head = ("engine", "connections", "latency: baseline / sidecar", "CPU: baseline / sidecar", "p50 added by sidecar")
    more_head = ("by baseline", "CPU a scrape, sidecar", "baseline", "p50 of the engine alone")
    table("Scrapes through HTTP, one after the other on each connection", (*head, *more_head), rows)


def costs(program: Running, connections: int, seconds: float) -> tuple[Times, float]:
    """Return the latencies of scrapes, and the milliseconds of CPU that each took the program."""
    before = cpu(program.pid)
    times = asyncio.run(scrapes(program.port, connections, seconds))
    return times, (cpu(program.pid) - before) * 1000 / (len(times.values) + 2 * connections)


async def scrapes(port: int, connections: int, seconds: float = 0.0, number: int = 0) -> Times:
    """Scrape on so many connections for so long, or so often altogether; return the times."""
    found: list[float] = []
    until = time.perf_counter() + seconds

    async def scrape() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = f"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\naccept-encoding: identity\r\n\r\n".encode()
        done = 0
        # However slow it is, each connection has some answers.
        while len(found) < number if number else time.perf_counter() < until or done < 5:
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if length is None or not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"no scrape: {head.decode()}")
            await reader.readexactly(int(length[1]))
            done += 1
            if done > 2 or number:
                found.append((time.perf_counter() - began) * 1000)
        writer.close()

    await asyncio.gather(*(scrape() for _ in range(connections)))
    return Times(tuple(found))


def memory(number: int) -> None:
    """Resident memory, idle and after so many scrapes; the baseline, being slow, gets a twentieth of them."""
    rows = []
    for engine in TEXTS:
        with engine_of(engine) as port:
            for program, count in zip(both(engine, port), (number, max(number // 20, 100)), strict=True):
                with running(program) as process:
                    time.sleep(IDLE_SECONDS)
                    idle = resident(process.pid)
                    asyncio.run(scrapes(program.port, 4, number=count))
                    time.sleep(IDLE_SECONDS)
                    rows.append(
                        (engine.value, program.name, f"{idle:.1f} MB", f"{resident(process.pid):.1f} MB", f"{count:,}")
                    )
    table("Resident memory", ("engine", "", "idle", "after scrapes", "scrapes"), rows)


def start() -> None:
    """Time from the start of the process to the first answer of `/health`."""
    times: dict[str, list[tuple[float, float]]] = {}
    with engine_of(EngineKind.VLLM) as port:
        for _ in range(5):
            for program in both(EngineKind.VLLM, port):
                began = time.perf_counter()
                with running(program) as process:
                    times.setdefault(program.name, []).append((time.perf_counter() - began, cpu(process.pid)))
    rows = [
        (name, *(f"{statistics.median(column):.2f} s ({min(column):.2f})" for column in zip(*found, strict=True)))
        for name, found in times.items()
    ]
    table("Start to /health: median (least) of 5", ("", "time", "CPU"), rows)


def both(engine: EngineKind, engine_port: int) -> tuple[Program, Program]:
    """Return the sidecar and the baseline, beside an engine."""
    url = f"http://127.0.0.1:{engine_port}"
    folder = tempfile.mkdtemp()
    sidecar_port, baseline_port = free_port(), free_port()
    listen = ("--host", "127.0.0.1", "--port", str(sidecar_port), "--engine", engine.value, "--engine-base-url", url)
    return (
        Program(
            "sidecar",
            (sys.executable, "-m", "patio.app", *listen, "--log-level", "ERROR"),
            {"PATIO_STATE_FILE": f"{folder}/state.json"},
            sidecar_port,
        ),
        Program(
            "baseline",
            (
                *(sys.executable, "-m", "benchmarks.baseline", "--port", str(baseline_port)),
                *("--url", f"{url}/metrics", "--engine", engine.value),
            ),
            {},
            baseline_port,
        ),
    )


@dataclass(frozen=True)
class Running:
    """A process that answers."""

    pid: int
    port: int


@contextlib.contextmanager
def running(program: Program) -> Iterator[Running]:
    """Run a program; it has answered `/health` when this begins."""
    with subprocess.Popen(program.command, env={**os.environ, **program.environment}, cwd=ROOT) as process:
        try:
            healthy(program.port, process)
            yield Running(process.pid, program.port)
        finally:
            process.terminate()


def healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return at the first 200 of `/health`."""
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            if connection.recv(64).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.002)
    raise SystemExit(f"{process.args!r} ended with {process.returncode}")


@contextlib.contextmanager
def engine_of(engine: EngineKind) -> Iterator[int]:
    """Serve the recorded metrics of an engine from another process; give its port."""
    port = free_port()
    command = (sys.executable, "-m", "benchmarks.static_engine", "--port", str(port), "--file")
    with subprocess.Popen((*command, str(RECORDINGS / TEXTS[engine])), cwd=ROOT) as process:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.01)
            yield port
        finally:
            process.terminate()


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has had: unlike latencies, much the same on a busy machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Resident memory of a process, in MB of 2^20 bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit("this needs Linux")
    return int(found[1]) / 1024


def table(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table as Markdown."""
    print(f"\n### {title}\n")
    for row in (head, ("---",) * len(head), *rows):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

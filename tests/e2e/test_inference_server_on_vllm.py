"""`inference_server` with a real vLLM on a CPU: a whole life, a profile, and owners that are killed at any moment.

It starts some fifty vLLMs, so only PATIO_TEST_LONG=1 runs it.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from e2e_cluster.packages import ensure_packages
from e2e_engine import environment, model
from e2e_engine.process import LIBNUMA, LocalVllm
from inference_server import Cause, ServerStartupError, processes
from inference_server.ports import is_free
from patio_testing.deadline import DEADLINE
from patio_testing.environment import log_progress
from patio_testing.kube import until

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(os.environ.get("PATIO_TEST_LONG") != "1", reason="fifty starts of vLLM: PATIO_TEST_LONG=1"),
    pytest.mark.timeout(4 * 3600),
]

KILLS = 20
LONGEST_START = 60.0
"""Seconds within which the kills during a start are; it takes 30 to 90."""

OWNER = """
import sys, threading
from pathlib import Path
from e2e_engine.process import LocalVllm
installed, models, scratch, port = sys.argv[1:]
server = LocalVllm(Path(installed), Path(models), Path(scratch), port=int(port))
print("starting", flush=True)
server.start()
print("ready", server.process.pid, flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def installed() -> Path:
    ensure_packages([LIBNUMA], log_progress)
    return environment.install(log_progress)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.write(tmp_path_factory.mktemp("e2e") / "made")


def completion(server: LocalVllm, name: str) -> str:
    body = {"model": name, "prompt": model.PROMPT, "max_tokens": 12, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=120)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["text"])


def left(scratch: Path) -> list[str]:
    """Return the command lines of processes of an engine that has this scratch folder.

    Workers write over what can be read of their environment, so what they have open counts too.
    """
    mark = f"HOME={scratch}".encode()
    found = []
    for stat in processes.all_processes():
        pid = stat.identity.pid
        if stat.alive and pid != os.getpid() and (processes.has_variable(pid, mark) or has_open(pid, scratch)):
            found.append(f"{pid} {processes.cmdline_of(pid)}")
    return found


def has_open(pid: int, folder: Path) -> bool:
    try:
        links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.startswith(f"{folder}/") for link in links)


def test_life_with_completions_an_adapter_metrics_and_a_profile(installed: Path, models: Path, tmp_path: Path) -> None:
    profile = {"enabled": True, "tool": "pytorch"}
    with LocalVllm(installed, models, tmp_path, profile=profile) as server:
        log_progress(f"phases: { {name: round(at, 1) for name, at in server.phases.items()} }")
        base = completion(server, model.NAME)
        assert base == completion(server, model.NAME)
        adapter = server.load_adapter("lora-a", models / "adapters/lora-a")
        assert completion(server, adapter) != base
        text = server.metrics()
        assert "vllm:num_requests_running{" in text
        assert "patio:num_requests_running{" in text
        with server.profile("window") as window:
            completion(server, adapter)
        assert window.files
        for path in window.files:
            if path.suffix == ".gz":
                assert json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        server.unload_adapter("lora-a")
    assert server.cleanup_report is not None
    assert server.cleanup_report.passed, server.cleanup_report
    assert left(tmp_path) == []
    assert is_free(server.port)


def test_wrong_option_is_told_before_vllm_could(installed: Path, models: Path, tmp_path: Path) -> None:
    server = LocalVllm(installed, models, tmp_path)
    server.api_server_args.append("--max-modell-len")
    with pytest.raises(ServerStartupError, match="--max-model-len") as raised:
        server.start()
    assert raised.value.cause is Cause.UNKNOWN_OPTION


@contextmanager
def owner(installed: Path, models: Path, scratch: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """A process that starts a vLLM and then waits; killed in the end."""
    command = [sys.executable, "-c", OWNER, str(installed), str(models), str(scratch), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "starting\n"
        try:
            yield running
        finally:
            running.kill()


def check_that_nothing_is_left(scratch: Path, port: int) -> None:
    began = time.monotonic()
    until("no process is left", lambda: left(scratch), lambda found: not found, within=DEADLINE)
    log_progress(f"nothing was left {1000 * (time.monotonic() - began):.0f} ms after the death of the owner")
    assert is_free(port)


@pytest.mark.parametrize("serving", [False, True], ids=["during the start", "while it serves"])
def test_owner_killed_at_a_random_moment_leaves_nothing(
    installed: Path, models: Path, tmp_path: Path, serving: bool
) -> None:
    rng = random.Random(7)
    server = LocalVllm(installed, models, tmp_path)
    for _ in range(KILLS):
        with owner(installed, models, tmp_path, server.port) as running:
            if serving:
                assert running.stdout is not None
                assert running.stdout.readline().startswith("ready ")
            with suppress(subprocess.TimeoutExpired):
                running.wait(timeout=rng.uniform(0, 1 if serving else LONGEST_START))
        check_that_nothing_is_left(tmp_path, server.port)
    with server:
        assert completion(server, model.NAME)


def test_engine_core_does_not_outlive_its_api_server(installed: Path, models: Path, tmp_path: Path) -> None:
    """Without a keeper, EngineCore of vLLM 0.32.0 lives on with its workers and their memory."""
    with LocalVllm(installed, models, tmp_path) as server:
        assert server.process is not None
        members = [stat.identity for stat in server.process.members()]
        assert len(members) > 1
        os.kill(server.process.pid, signal.SIGKILL)
        began = time.monotonic()
        until(
            "its processes have ended",
            lambda: [each for each in members if processes.is_alive(each)],
            lambda found: not found,
            within=DEADLINE,
        )
        log_progress(f"EngineCore outlived its API server by {1000 * (time.monotonic() - began):.0f} ms")
        until("the server knows", lambda: server.state == "dead", within=DEADLINE)

"""A real vLLM as a process of this machine, for what needs no cluster: start it, wait for it, kill it, start it again.

Beside `launch`, which says how it is started. Its port stays the same over restarts, as in a pod.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from e2e_cluster.packages import Package, ensure_packages
from e2e_engine import environment, launch

LEAVE_SECONDS = 30
LIBNUMA = Package("libnuma1", f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/libnuma.so.1")
"""vLLM's CPU worker is linked against it; in a pod it comes with the image."""


class VllmProcess:
    """One vLLM on loopback, down until `start`."""

    def __init__(self, installed: Path, models: Path, scratch: Path, max_model_len: int) -> None:
        """`installed`: of `environment.install`; `models`: of `model.write`; `scratch`: where it may write."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable,
            *launch.arguments(models / "model", host="127.0.0.1", port=self.port, max_model_len=max_model_len),
        ]
        self._variables = {"PATH": os.defpath, **launch.variables(installed, scratch)}
        self._log = scratch / "vllm.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return at once."""
        with self._log.open("a") as output:
            self._process = subprocess.Popen(
                self._command, env=self._variables, stdout=output, stderr=output, start_new_session=True
            )

    def wait_until_ready(self) -> None:
        """Return when `/health` answers 200; raise `AssertionError`, with its last words, if that does not come."""
        until = time.monotonic() + launch.STARTUP_SECONDS
        while not self.is_ready():
            if self._process is None or self._process.poll() is not None:
                raise AssertionError(f"vLLM ended; its last words:\n{self._log_tail()}")
            if time.monotonic() > until:
                raise AssertionError(f"vLLM is not up after {launch.STARTUP_SECONDS} s:\n{self._log_tail()}")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Whether it answers now."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End it and its workers as the kernel would: without a word."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def terminate(self) -> None:
        """Ask it to leave, then see to it that it has."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=LEAVE_SECONDS)
            self.kill()

    def _log_tail(self) -> str:
        return self._log.read_text()[-3000:]


@contextlib.contextmanager
def running_vllm(
    models: Path, scratch: Path, report: Callable[[str], None], *, max_model_len: int = launch.MAX_MODEL_LEN
) -> Iterator[VllmProcess]:
    """A vLLM that is ready, and gone afterwards. Installs what is missing."""
    ensure_packages([LIBNUMA], report)
    process = VllmProcess(environment.install(report), models, scratch, max_model_len)
    try:
        process.start()
        process.wait_until_ready()
        yield process
    finally:
        process.terminate()

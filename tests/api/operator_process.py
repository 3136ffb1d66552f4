"""The operator as a process that tests start, kill and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from kube import until

OPERATOR = "system:serviceaccount:patio-system:patio-operator"
"""Who it is on the API server."""


class OperatorProcess:
    """The operator, as a process that can be ended and started again."""

    def __init__(self, kubeconfig: Path) -> None:
        self._health_port = free_port()
        self.webhook_port = free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(kubeconfig),
            "PATIO_NAMESPACE": "patio-system",
            "PATIO_HEALTH_PORT": str(self._health_port),
            "PATIO_WEBHOOK_PORT": str(self.webhook_port),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.log = tempfile.NamedTemporaryFile(prefix="patio-operator-", suffix=".log")  # noqa: SIM115

    def start(self) -> None:
        """Start it, and wait until it watches."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "patio_operator"], env=self._environment, stderr=self.log, stdout=self.log
        )

    def wait(self) -> None:
        """Wait until it watches."""
        until("the operator is ready", self._ready, within=30)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def launched(self) -> bool:
        """Whether it was ever started."""
        return self._process is not None

    def stop(self) -> int:
        """End it as the kubelet would, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)

    def metrics(self) -> str:
        """Return its own metrics."""
        return httpx.get(f"http://127.0.0.1:{self._health_port}/metrics").text

    def logged(self) -> str:
        """Return what it logged."""
        return Path(self.log.name).read_text()

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the operator ended: {self.logged()[-3000:]}"
        return httpx.get(f"http://127.0.0.1:{self._health_port}/readyz").status_code == 200


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

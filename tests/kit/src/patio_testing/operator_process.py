"""The operator as a process that tests start, kill and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from inference_server.ports import free_port
from patio_testing.kube import until

OPERATOR = "system:serviceaccount:patio-system:patio-operator"
"""The user whose rights the chart sets up for it."""


class OperatorProcess:
    """The operator, as a process that can be ended and started again."""

    def __init__(self, kubeconfig: Path, name: str = "patio-operator-0", **variables: str) -> None:
        """`name` is what the replica calls itself; `variables` are set for it beside those that it needs."""
        self.name = name
        self._health_port = free_port()
        self.webhook_port = free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(kubeconfig),
            "PATIO_NAMESPACE": "patio-system",
            "POD_NAME": name,
            "PATIO_HEALTH_PORT": str(self._health_port),
            "PATIO_WEBHOOK_PORT": str(self.webhook_port),
            "PATIO_ASK_LOOPBACK": "true",
            **variables,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.log = tempfile.NamedTemporaryFile(prefix="patio-operator-", suffix=".log")  # noqa: SIM115

    def start(self) -> None:
        """Start it, and wait until it answers admissions."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "patio_operator"], env=self._environment, stderr=self.log, stdout=self.log
        )

    def wait(self) -> None:
        """Wait until it answers admissions."""
        until("the operator is ready", self.ready, within=30)

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
        self.terminate()
        return self.ended()

    def terminate(self) -> None:
        """Ask it to end, as the kubelet does, and do not wait."""
        self._signal(signal.SIGTERM)

    def freeze(self) -> None:
        """Have it stand still, as a node does that is out of memory."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have it go on."""
        self._signal(signal.SIGCONT)

    def ended(self) -> int:
        """Wait for it to end, and return its exit code."""
        assert self._process is not None
        return self._process.wait(20)

    def end(self) -> None:
        """End it if it runs, however it is."""
        if self.runs():
            self.thaw()
            self.stop()

    def runs(self) -> bool:
        """Tell whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def leads(self) -> bool:
        """Tell whether it says that it reconciles."""
        return "patio_operator_leader 1.0" in self.metrics()

    def metrics(self) -> str:
        """Return its own metrics."""
        return httpx.get(f"http://127.0.0.1:{self._health_port}/metrics").text

    def logged(self) -> str:
        """Return what it logged."""
        return Path(self.log.name).read_text()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def ready(self) -> bool:
        """Tell whether it says that it is ready."""
        assert self.runs(), f"the operator ended: {self.logged()[-3000:]}"
        return httpx.get(f"http://127.0.0.1:{self._health_port}/readyz").status_code == 200

"""Real faults and the alerts that they set off: waits for an alert, and does what its runbook says first.

Prometheus has the rules of the chart twice: as they are, and as a copy in which every duration (`for`, ranges, offsets)
is twenty times shorter, at least four scrapes. The copy is what is waited for; thresholds and expressions are the same.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from patio_observability.alerts import ALERTS
from patio_testing.environment import SYSTEM_NAMESPACE, log_progress
from patio_testing.kube import Kube, until
from patio_testing.prometheus import Prometheus, hastened

COPY = "hastened"
TIMES = 20
"""How many times shorter the durations of the copy are."""
WITHIN = 90.0
"""Seconds to an alert: ranges and `for` of the copy are 45 each at most, and they may follow each other."""


def kubectl(kube: Kube, namespace: str) -> list[str]:
    """Return the words that a command of kubectl in a namespace begins with."""
    return [str(kube.kubectl_binary), f"--kubeconfig={kube.kubeconfig}", f"--namespace={namespace}"]


@dataclass(frozen=True)
class Drill:
    """A Prometheus with the hastened copy of the rules."""

    kube: Kube
    prometheus: Prometheus

    def prepare(self) -> None:
        """Make the copy of the rules that the chart has made."""
        path = f"/apis/monitoring.coreos.com/v1/namespaces/{SYSTEM_NAMESPACE}/prometheusrules/patio"
        self.kube.apply(hastened(self.kube.get(path), COPY, TIMES))

    def end(self) -> None:
        """Delete it."""
        self.kube.kubectl("-n", SYSTEM_NAMESPACE, "delete", "prometheusrule", COPY, "--ignore-not-found")

    def until_up(self, namespace: str) -> None:
        """Wait until Prometheus has seen every engine of a namespace up."""
        up = f'min(patio:engine_up{{namespace="{namespace}"}})'
        until(f"Prometheus sees the engine of {namespace} up", lambda: self.prometheus.value(up) == 1, within=60)

    def fires(
        self,
        alert: str,
        namespace: str | None,
        meanwhile: Callable[[], object] = lambda: None,
        within: float = WITHIN,
    ) -> dict[str, str]:
        """Wait until an alert fires, tell how long it took, and return its labels.

        Args:
            alert: its name.
            namespace: the alert's label; None where it has none.
            meanwhile: is called again and again until then.
            within: seconds to the alert.

        """
        began = time.monotonic()

        def seen() -> list[dict[str, str]]:
            meanwhile()
            mine = [labels for labels in self.prometheus.firing() if labels["alertname"] == alert and COPY in labels]
            return [labels for labels in mine if labels.get("namespace") == namespace]

        labels = until(f"{alert} fires", seen, within=within)[0]
        log_progress(f"{alert}: {time.monotonic() - began:.0f} s after the fault, durations {TIMES} times shorter")
        return labels

    def first_command(self, alert: str, namespace: str = "", pod: str = "", **names: str) -> str:
        """Run the first command of an alert's runbook as a person would, and return what it prints."""
        (found,) = [definition for definition in ALERTS if definition.name == alert]
        command = found.runbook.look[0].command
        for name, value in {"NAMESPACE": namespace, "POD": pod, "ENGINE": "engine", **names}.items():
            command = command.replace(name, value)
        if "localhost:9091" not in command:
            return self._run(command)
        with self._forwarded(namespace, pod) as address:
            return self._run(command.replace("localhost:9091", address))

    def _run(self, command: str) -> str:
        path = f"{self.kube.kubectl_binary.parent}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "KUBECONFIG": str(self.kube.kubeconfig)}
        done = subprocess.run(
            ["sh", "-c", command], env=variables, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def _forwarded(self, namespace: str, pod: str) -> Iterator[str]:
        """The sidecar's port of a pod on this machine."""
        command = [*kubectl(self.kube, namespace), "port-forward", pod, ":9091"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[2]  # Forwarding from 127.0.0.1:PORT -> 9091
        finally:
            process.terminate()
            process.wait()

"""LoraAdapters against a real API server and real sidecars beside engine doubles. Only the kubelet is missing.

Each pod is an object of the API server whose address is loopback and whose sidecar is a process here, so that
sidecars and the operator can be killed as they please.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_double.samples import write_adapter

from kube import Kube, condition, is_ready, until
from operator_process import OperatorProcess, free_port

pytestmark = pytest.mark.api


class EnginePod:
    """A pod object, with an engine double and a sidecar as its processes."""

    def __init__(self, kube: Kube, namespace: str, name: str, folder: Path) -> None:
        self.name = name
        self._kube = kube
        self._namespace = namespace
        self._folder = folder
        self._engine_port = free_port()
        self._sidecar_port = free_port()
        self.engine = f"http://127.0.0.1:{self._engine_port}"
        self.sidecar = f"http://127.0.0.1:{self._sidecar_port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the processes, then make the pod known, as running."""
        self.start_engine()
        self.start_sidecar()
        containers = [{"name": "engine", "image": "engine"}]
        ports = [{"name": "patio", "containerPort": self._sidecar_port}]
        sidecar = {"name": "patio", "image": "patio", "restartPolicy": "Always", "ports": ports}
        labels = {"app": "vllm", "patio.dev/injected": "true"}
        self._kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": self.name, "namespace": self._namespace, "labels": labels},
                "spec": {"containers": containers, "initContainers": [sidecar], "nodeName": "node-a"},
            }
        )
        address = '{"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}'
        self._kube.kubectl(
            "-n", self._namespace, "patch", "pod", self.name, "--subresource=status", "--type=merge", "-p", address
        )

    def start_engine(self) -> None:
        """Start the engine double."""
        command = ["-m", "engine_double", "vllm", "serve", "/models/tiny", "--served-model-name", "tiny"]
        flags = ["--enable-lora", "--host", "127.0.0.1", "--port", str(self._engine_port)]
        self._start("engine", [*command, *flags], {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"})

    def start_sidecar(self) -> None:
        """Start the sidecar."""
        command = ["-m", "patio.app", "--host", "127.0.0.1", "--port", str(self._sidecar_port)]
        state = str(self._folder / f"{self.name}.json")
        variables = {"INFERENCE_ENGINE": "vllm", "INFERENCE_ENGINE_ENDPOINT": self.engine, "PATIO_STATE_FILE": state}
        self._start("sidecar", command, variables)

    def kill(self, *which: str) -> None:
        """End processes as by SIGKILL."""
        for one in which:
            process = self._processes.pop(one)
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End what still runs."""
        self.kill(*self._processes)

    def models(self) -> set[str]:
        """Return what the engine lists."""
        return {one["id"] for one in httpx.get(f"{self.engine}/v1/models").json()["data"]}

    def _start(self, which: str, command: list[str], variables: dict[str, str]) -> None:
        environment = {"PATH": os.environ["PATH"], "POD_NAME": self.name, **variables}
        with (self._folder / f"{self.name}-{which}.log").open("ab") as log:
            self._processes[which] = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=log, stderr=log
            )


MakePod = Callable[[str], EnginePod]


@pytest.fixture
def engine_pod(kube: Kube, namespace: str, tmp_path: Path) -> Iterator[MakePod]:
    """Makes pods with an engine and a sidecar."""
    made: list[EnginePod] = []

    def make(name: str) -> EnginePod:
        pod = EnginePod(kube, namespace, name, tmp_path)
        made.append(pod)
        pod.start()
        return pod

    yield make
    for pod in made:
        pod.stop()


@pytest.fixture
def adapter_path(tmp_path: Path) -> str:
    """The folder of an adapter that works."""
    return str(write_adapter(tmp_path / "adapter"))


def lora_adapter(namespace: str, name: str, path: str) -> dict[str, Any]:
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": {"uri": f"file://{path}"}, "selector": {"matchLabels": {"app": "vllm"}}},
    }


def until_ready(kube: Kube, namespace: str, name: str, replicas: int) -> None:
    until(
        f"{name} ready on {replicas}",
        lambda: kube.lora_adapter(namespace, name) or {},
        lambda one: is_ready(one) and one["status"]["readyReplicas"] == replicas,
        within=30,
    )


@pytest.mark.usefixtures("operator")
def test_an_adapter_reaches_every_pod_and_those_that_come_later(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    pods = [engine_pod("a"), engine_pod("b")]
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 2)
    pods.append(engine_pod("c"))
    until_ready(kube, namespace, "sql", 3)
    assert all("sql" in pod.models() for pod in pods)
    kube.kubectl("-n", namespace, "delete", "loraadapter", "sql", "--timeout=30s")
    assert all("sql" not in pod.models() for pod in pods)


@pytest.mark.usefixtures("operator")
def test_a_sidecar_out_of_reach_is_unknown_until_it_is_back(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    pod = engine_pod("a")
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 1)
    pod.kill("sidecar")
    unknown = until(
        "the state Unknown",
        lambda: kube.lora_adapter(namespace, "sql") or {},
        lambda one: one["status"]["instances"][0]["state"] == "Unknown",
        within=20,
    )
    assert condition(unknown, "Ready")["reason"] == "SidecarUnreachable"
    pod.start_sidecar()
    until_ready(kube, namespace, "sql", 1)


@pytest.mark.usefixtures("operator")
def test_engine_and_sidecar_killed_together_come_back_with_the_adapter(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    pod = engine_pod("a")
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 1)
    pod.kill("engine", "sidecar")
    pod.start_engine()
    pod.start_sidecar()
    until("the engine has it again", lambda: "sql" in pod.models(), within=20)
    until_ready(kube, namespace, "sql", 1)


@pytest.mark.usefixtures("operator")
def test_what_was_loaded_by_hand_stays(kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str) -> None:
    pod = engine_pod("a")
    by_hand = {"lora_name": "mine", "lora_path": adapter_path}
    until("the engine is up", lambda: httpx.get(f"{pod.sidecar}/ready").status_code == 200)
    httpx.post(f"{pod.sidecar}/load_lora_adapter", json=by_hand).raise_for_status()
    kube.apply(lora_adapter(namespace, "sql", adapter_path))
    until_ready(kube, namespace, "sql", 1)
    kube.kubectl("-n", namespace, "delete", "loraadapter", "sql", "--timeout=30s")
    assert pod.models() == {"tiny", "mine"}


def test_an_operator_that_was_killed_finds_what_changed_meanwhile(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str, operator: OperatorProcess
) -> None:
    pod = engine_pod("a")
    kube.apply(lora_adapter(namespace, "old", adapter_path))
    until_ready(kube, namespace, "old", 1)
    operator.kill()
    kube.kubectl("-n", namespace, "delete", "loraadapter", "old", "--wait=false")
    kube.apply(lora_adapter(namespace, "new", adapter_path))
    assert pod.models() == {"tiny", "old"}
    operator.start()
    until_ready(kube, namespace, "new", 1)
    until("the old one is gone", lambda: kube.lora_adapter(namespace, "old") is None, within=20)
    assert pod.models() == {"tiny", "new"}


@pytest.mark.usefixtures("operator")
def test_of_two_that_want_one_name_the_younger_is_told_so(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    engine_pod("a")
    kube.apply(lora_adapter(namespace, "first", adapter_path))
    until_ready(kube, namespace, "first", 1)
    rival = lora_adapter(namespace, "second", adapter_path)
    rival["spec"]["adapterName"] = "first"
    kube.apply(rival)
    told = until(
        "the rival's verdict",
        lambda: condition(kube.lora_adapter(namespace, "second") or {}, "Ready"),
        lambda one: one.get("reason") == "NameTaken",
    )
    assert f"LoraAdapter/{namespace}/first" in told["message"]

"""A pod as a real API server admits it, its containers run as by a kubelet: what it has before anyone calls it.

The engine double and the sidecar are processes with exactly the variables that admission gave their containers. The
operator answers the admission and never reaches them: the pod object has no address.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_double.samples import write_adapter
from inference_server.ports import free_port
from patio_testing.kube import Kube, until
from patio_testing.local_servers import local_server
from patio_testing.operator_process import OperatorProcess

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("webhooks")]

Object = dict[str, Any]


@pytest.fixture
def volume() -> Iterator[Path]:
    """A folder that a node has; not below /tmp, which is each container's own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="patio-volume-") as folder:
        yield Path(folder)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ExitStack]:
    """Ends what a test starts."""
    with ExitStack() as stack:
        yield stack
    for log in tmp_path.glob("*/*.log"):
        print(f"--- {log.name}\n{log.read_text()[-3000:]}")  # pytest shows it with a failure


def adapter(namespace: str, name: str, uri: str, **spec: Any) -> Object:
    source = {"uri": uri} | spec.pop("source", {})
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": source, "selector": {"matchLabels": {"app": "vllm"}}} | spec,
    }


def engine_pod(namespace: str, volume: Path, port: int) -> Object:
    command = ["vllm", "serve", "/models/tiny", "--served-model-name", "tiny", "--enable-lora", "--port", str(port)]
    mount = {"name": "models", "mountPath": str(volume), "readOnly": True}
    labels = {"app": "vllm", "patio.dev/profile": "patio"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "engine", "namespace": namespace, "labels": labels},
        "spec": {
            "containers": [{"name": "vllm", "image": "vllm", "command": command, "volumeMounts": [mount]}],
            "volumes": [{"name": "models", "hostPath": {"path": str(volume), "type": "Directory"}}],
        },
    }


def variables(pod: Object, container: Object) -> dict[str, str]:
    """Return a container's variables as the kubelet would set them."""
    fields = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "status.podIP": "127.0.0.1",
    }
    found: dict[str, str] = {}
    for variable in container.get("env") or []:
        value = variable["value"] if "value" in variable else fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        found[variable["name"]] = expanded(value, found)
    return found


def expanded(value: str, known: Mapping[str, str]) -> str:
    def put(match: re.Match[str]) -> str:
        return match[0][1:] if match[0].startswith("$$") else known.get(match[1], match[0])

    return re.sub(r"\$?\$\(([^()]+)\)", put, value)


def run(processes: ExitStack, folder: Path, port: int, command: list[str], environment: dict[str, str]) -> None:
    server = local_server(folder.name, folder, port, command, environment)
    processes.callback(server.kill)
    server.launch()


def test_new_pod_has_its_adapters_at_once_and_waits_for_secrets(
    kube: Kube, namespace: str, volume: Path, tmp_path: Path, processes: ExitStack, webhooks: OperatorProcess
) -> None:
    write_adapter(volume / "lora" / "on-volume")
    kube.apply(
        adapter(namespace, "on-volume", "pvc://lora/on-volume", baseModel="tiny"),
        adapter(namespace, "private", "s3://bucket/private", source={"secretRef": {"name": "not-there"}}),
        adapter(namespace, "placed", "pvc://lora/on-volume", replicas=1),
        adapter(namespace, "of-another", "pvc://lora/on-volume", baseModel="other"),
    )
    engine_port, sidecar_port = free_port(), free_port()
    pod = engine_pod(namespace, volume, engine_port)

    def knows() -> bool:
        tried = kube.http.post(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", json=pod).json()
        return "s3://bucket/private" in variables(tried, tried["spec"]["initContainers"][0]).get(
            "PATIO_REQUIRED_ADAPTERS", ""
        )

    until("admissions know the LoraAdapters", knows, within=10)
    kube.apply(pod)
    admitted = kube.get(f"/api/v1/namespaces/{namespace}/pods/engine")
    (engine,) = admitted["spec"]["containers"]
    (sidecar,) = admitted["spec"]["initContainers"]
    run(
        processes,
        tmp_path / "engine",
        engine_port,
        ["-m", "engine_double", *engine["command"], "--host", "127.0.0.1"],
        variables(admitted, engine),
    )
    own = {"PATIO_STATE_FILE": str(tmp_path / "state.json"), "PATIO_DOWNLOAD_ROOT": str(tmp_path / "downloads")}
    run(
        processes,
        tmp_path / "sidecar",
        sidecar_port,
        ["-m", "patio.app", "--host", "127.0.0.1", "--port", str(sidecar_port), *(sidecar.get("args") or [])],
        variables(admitted, sidecar) | own,
    )

    def adapters() -> dict[str, Object]:
        listed = httpx.get(f"http://127.0.0.1:{sidecar_port}/v1/lora_adapters").json()["adapters"]
        return {adapter["lora_name"]: adapter for adapter in listed}

    found = until("the adapter is loaded", adapters, lambda found: found["on-volume"]["state"] == "Loaded", within=20)
    assert found.keys() == {"on-volume", "private"}
    assert found["on-volume"]["lora_path"] == str(volume / "lora" / "on-volume")
    assert found["on-volume"]["owner"] == f"LoraAdapter/{namespace}/on-volume"
    assert (found["private"]["state"], found["private"]["reason"]) == ("Pending", "CredentialsMissing")
    assert "on-volume" in httpx.get(f"http://127.0.0.1:{engine_port}/v1/models").text
    ready = httpx.get(f"http://127.0.0.1:{sidecar_port}/ready")
    assert ready.status_code == 503
    assert "private" in ready.text
    assert "on-volume" not in ready.text

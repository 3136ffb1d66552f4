"""Pods of an API server that has no nodes: objects with addresses on loopback, whose engine double and sidecar are
processes here, so that tests can kill either as they please. Only the kubelet is missing."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from inference_server import CustomServer
from inference_server.ports import free_port
from patio_protocol.credentials import TOKEN_AUDIENCE, TOKEN_SECONDS
from patio_testing.kube import Kube, is_ready, until
from patio_testing.local_servers import engine_double, local_server, logged


class EnginePod:
    """A pod object, with an engine double and a sidecar as its processes."""

    def __init__(self, kube: Kube, namespace: str, name: str, folder: Path, node: str = "node-a") -> None:
        self.name = name
        self.node = node
        self._kube = kube
        self._namespace = namespace
        self._folder = folder
        self.engine_port = free_port()
        self.sidecar_port = free_port()
        self.engine = f"http://127.0.0.1:{self.engine_port}"
        self.sidecar = f"http://127.0.0.1:{self.sidecar_port}"
        self._servers: dict[str, CustomServer] = {}
        self._launched: list[CustomServer] = []
        self._identity: dict[str, str] = {}

    def start(self) -> None:
        """Start the processes, then make the pod known, as running and ready."""
        self.start_engine()
        self.start_sidecar()
        self.make_known()

    def make_known(self) -> None:
        """Make the pod's object, as injection and the kubelet would have it."""
        containers = [{"name": "engine", "image": "engine"}]
        ports = [{"name": "patio", "containerPort": self.sidecar_port}]
        sidecar = {"name": "patio", "image": "patio", "restartPolicy": "Always", "ports": ports}
        labels = {"app": "vllm", "patio.dev/injected": "true"}
        annotations = {"patio.dev/engine": json.dumps({"kind": "vllm", "port": self.engine_port})}
        metadata = {"name": self.name, "namespace": self._namespace, "labels": labels, "annotations": annotations}
        self._kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": {
                    "containers": containers,
                    "initContainers": [sidecar],
                    "nodeName": self.node,
                    "serviceAccountName": "default",
                },
            }
        )
        self.set_ready(ready=True)

    def object(self) -> dict[str, Any]:
        """Return the pod's object."""
        found: dict[str, Any] = self._kube.get(f"/api/v1/namespaces/{self._namespace}/pods/{self.name}")
        return found

    @property
    def uid(self) -> str:
        """The UID of the pod's object."""
        return str(self.object()["metadata"]["uid"])

    def token(self, audience: str = TOKEN_AUDIENCE) -> str:
        """Return a token as the kubelet gets it for a projected volume: bound to the pod."""
        return token(self._kube, self._namespace, audience, {"name": self.name, "uid": self.uid})

    def identify(self, operator_key: str, shown: str | None = None) -> None:
        """Start the sidecar anew with what injection and the kubelet would give it; `shown` is another token."""
        file = self._folder / self.name / "token"
        file.write_text(shown or self.token())
        self._identity = {
            "PATIO_OPERATOR_KEYS": operator_key,
            "POD_UID": self.uid,
            "PATIO_ACCESS_TOKEN_FILE": str(file),
        }
        self.kill("sidecar")
        self.start_sidecar()

    def set_ready(self, *, ready: bool) -> None:
        """Have the pod be ready, or not, as the kubelet would say it."""
        conditions = [{"type": "Ready", "status": str(ready)}]
        status = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}], "conditions": conditions}
        patch = json.dumps({"status": status})
        self._kube.kubectl(
            "-n", self._namespace, "patch", "pod", self.name, "--subresource=status", "--type=merge", "-p", patch
        )

    def start_engine(self) -> None:
        """Start the engine double."""
        flags = ["vllm", "serve", "/models/tiny", "--served-model-name", "tiny", "--enable-lora"]
        self._launch("engine", engine_double("engine", self._log_folder(), self.engine_port, *flags))

    def start_sidecar(self) -> None:
        """Start the sidecar."""
        command = ["-m", "patio.app", "--host", "127.0.0.1", "--port", str(self.sidecar_port)]
        state = str(self._folder / self.name / "state.json")
        (self._folder / self.name).mkdir(exist_ok=True)
        downloads = str(self._folder / self.name / "downloads")
        variables = {
            "INFERENCE_ENGINE": "vllm",
            "INFERENCE_ENGINE_ENDPOINT": self.engine,
            "PATIO_STATE_FILE": state,
            "PATIO_DOWNLOAD_ROOT": downloads,
            "POD_NAME": self.name,
            **self._identity,
        }
        self._launch("sidecar", local_server("sidecar", self._log_folder(), self.sidecar_port, command, variables))

    def kill(self, *process_names: str) -> None:
        """End processes as by SIGKILL."""
        for process_name in process_names:
            self._servers.pop(process_name).kill()

    def freeze(self, process_name: str) -> None:
        """Have a process stand still."""
        self._signal(process_name, signal.SIGSTOP)

    def thaw(self, process_name: str) -> None:
        """Have it go on."""
        self._signal(process_name, signal.SIGCONT)

    def stop(self) -> None:
        """End what still runs."""
        self.kill(*self._servers)

    def remove(self) -> None:
        """Have the pod be gone, as after an eviction."""
        self._kube.kubectl("-n", self._namespace, "delete", "pod", self.name, "--grace-period=0", "--force")
        self.stop()

    def models(self) -> set[str]:
        """Return what the engine lists."""
        return {model["id"] for model in httpx.get(f"{self.engine}/v1/models").json()["data"]}

    def root(self, name: str) -> str | None:
        """Return the folder that the engine has an adapter from."""
        found = httpx.get(f"{self.engine}/v1/models").json()["data"]
        return next((model["root"] for model in found if model["id"] == name), None)

    def marks(self) -> set[str]:
        """Return the names that the pod's labels show."""
        return marks(self.object())

    def requests(self, path: str) -> list[dict[str, Any]]:
        """Return the requests that the engine got on a path."""
        found: list[dict[str, Any]] = httpx.get(f"{self.engine}/_double/requests", params={"path": path}).json()
        return found

    def logged(self) -> str:
        """Return what all its processes logged."""
        return "".join(map(logged, self._launched))

    def _launch(self, process_name: str, server: CustomServer) -> None:
        self._servers[process_name] = server
        self._launched.append(server)
        server.launch()

    def _log_folder(self) -> Path:
        """Return a folder of its own for each start: logs of all of them are looked at."""
        return self._folder / "logs" / f"{self.name}-{len(self._launched)}"

    def _signal(self, process_name: str, number: signal.Signals) -> None:
        process = self._servers[process_name].process
        assert process is not None
        process.send_signal(number)


def marks(pod: Mapping[str, Any]) -> set[str]:
    """Return the names of adapters that the labels of a pod's object show."""
    labels = pod["metadata"]["labels"]
    return {key.removeprefix("lora.patio.dev/") for key, value in labels.items() if value == "loaded"}


def token(kube: Kube, namespace: str, audience: str, pod: dict[str, str] | None) -> str:
    """Have the API server make a token of the namespace's service account, bound to a pod if one is given."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}}
    kube.apply(account)
    bound = None if pod is None else {"kind": "Pod", "apiVersion": "v1", **pod}
    answer = kube.http.post(
        f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token",
        json={
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": TOKEN_SECONDS, "boundObjectRef": bound},
        },
    )
    answer.raise_for_status()
    return str(answer.json()["status"]["token"])


MakePod = Callable[..., EnginePod]
"""Takes a name, and a node if that matters."""


def lora_adapter(namespace: str, name: str, path: str, **spec: Any) -> dict[str, Any]:
    """Return a LoraAdapter for the pods here; `spec` replaces its fields."""
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": {"uri": f"file://{path}"}, "selector": {"matchLabels": {"app": "vllm"}}, **spec},
    }


def until_ready(kube: Kube, namespace: str, name: str, replicas: int, within: float = 30) -> dict[str, Any]:
    """Wait until a LoraAdapter is ready on so many pods; return it."""
    return until(
        f"{name} ready on {replicas}",
        lambda: kube.lora_adapter(namespace, name) or {},
        lambda adapter: (
            is_ready(adapter)
            and adapter["status"]["readyReplicas"] == replicas
            and adapter["status"]["observedGeneration"] == adapter["metadata"]["generation"]
        ),
        within=within,
    )


def loaded_on(adapter: dict[str, Any]) -> set[str]:
    """Return the pods that a LoraAdapter's status says it is loaded on."""
    return {instance["pod"] for instance in adapter["status"]["instances"] if instance["state"] == "Loaded"}

"""How the end-to-end tests and the demo see a cluster: kubectl for what users would type, the API for the rest.

Reads and requests to pods go through `kubectl proxy`, one process for the whole run, since a kubectl a read costs
more than the read. `until` is the only way to wait here: for a condition, with a deadline, telling the last state seen.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

T = TypeVar("T")

PAUSE = 0.2

BUSY = 8.0
"""How many times as long a busy machine may take. Only a failed test waits for so long, so it costs nothing else."""


class TimedOutError(AssertionError):
    """What was waited for did not come; the message tells what was seen last."""


def until(what: str, look: Callable[[], T], good: Callable[[T], bool] = bool, *, within: float = 60.0) -> T:
    """Look again and again until what is seen is good; return it.

    Args:
        what: what is waited for, for the message.
        look: reads the state. A failed HTTP exchange counts as not good yet.
        good: judges it; by default its truth.
        within: seconds, on a quiet machine; `BUSY` times as long is waited.

    Raises:
        TimedOutError: it did not come within that time.

    """
    within *= BUSY
    deadline = time.monotonic() + within
    pause = threading.Event()
    while True:
        try:
            last: Any = look()
            if good(last):
                return last  # type: ignore[no-any-return]
        except httpx.HTTPError as error:
            last = error
        if time.monotonic() > deadline:
            raise TimedOutError(f"{what}: not within {within:.0f} s; seen last: {last!r}"[:6000])
        pause.wait(PAUSE)


class KubectlError(AssertionError):
    """kubectl failed; the message is what it said."""


@dataclass(frozen=True)
class Kube:
    """A cluster, as its users see it."""

    kubectl_binary: Path
    kubeconfig: Path
    http: httpx.Client

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 120.0) -> str:
        """Run kubectl and return what it prints."""
        completed = subprocess.run(
            [self.kubectl_binary, "--kubeconfig", self.kubeconfig, *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if completed.returncode:
            raise KubectlError(f"kubectl {' '.join(args)}: {completed.stderr.strip() or completed.stdout.strip()}")
        return completed.stdout

    def apply(self, *objects: Mapping[str, Any]) -> str:
        """`kubectl apply` objects."""
        return self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def get(self, path: str) -> Any:
        """Read a path of the API; None when it is not there."""
        response = self.http.get(path)
        if response.status_code == 404:
            return None
        response.raise_for_status()
        found = response.json()
        for item in found.get("items") or [found]:
            item.get("metadata", {}).pop(
                "managedFields", None
            )  # nobody reads them, least of all in a failure's message
        return found

    def pods(self, namespace: str, labels: str = "") -> list[dict[str, Any]]:
        """Return the pods of a namespace."""
        path = f"/api/v1/namespaces/{namespace}/pods" + (f"?labelSelector={labels}" if labels else "")
        items: list[dict[str, Any]] = self.get(path)["items"]
        return items

    def pods_since(self, namespace: str, version: str) -> list[dict[str, Any]]:
        """Return each state that a pod of the namespace was in after a version of their list, oldest first."""
        response = self.http.get(
            f"/api/v1/namespaces/{namespace}/pods?watch=true&resourceVersion={version}&timeoutSeconds=1"
        )
        response.raise_for_status()
        return [json.loads(line)["object"] for line in response.text.splitlines()]

    def lora_adapter(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a LoraAdapter."""
        found: dict[str, Any] | None = self.get(f"/apis/patio.dev/v1alpha1/namespaces/{namespace}/loraadapters/{name}")
        return found

    def events(self, namespace: str, about: str) -> list[dict[str, Any]]:
        """Return the events about an object, by its name."""
        items: list[dict[str, Any]] = self.get(
            f"/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name={about}"
        )["items"]
        return items

    def to_pod(
        self, method: str, namespace: str, pod: str, port: int, path: str, body: Any = None, timeout: float = 30.0
    ) -> httpx.Response:
        """Send a request to a port of a pod, through the API server."""
        return self.http.request(
            method,
            f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path.lstrip('/')}",
            json=body,
            timeout=timeout,
        )

    def models(self, namespace: str, pod: str) -> dict[str, str]:
        """Return what the engine in a pod lists: paths (`root`) by the names of models and adapters."""
        response = self.to_pod("GET", namespace, pod, 8000, "/v1/models")
        response.raise_for_status()
        return {model["id"]: model["root"] for model in response.json()["data"]}

    def complete(self, namespace: str, pod: str, model: str, prompt: str, tokens: int = 12) -> str:
        """Have a model of the engine in a pod complete a prompt, greedily."""
        response = self.to_pod(
            "POST",
            namespace,
            pod,
            8000,
            "/v1/completions",
            {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0},
            timeout=120.0,
        )
        response.raise_for_status()
        text: str = response.json()["choices"][0]["text"]
        return text


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod, or a LoraAdapter, says it is Ready."""
    return condition(pod, "Ready").get("status") == "True"


def condition(of: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """Return a condition of an object; empty when it has none of that type."""
    conditions = (of.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == type_), {})


@contextmanager
def connected(kubectl_binary: Path, kubeconfig: Path) -> Iterator[Kube]:
    """Connect to a cluster for the length of a `with`."""
    proxy = subprocess.Popen(
        [kubectl_binary, "--kubeconfig", kubeconfig, "proxy", "--port=0", "--reject-paths=^$"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert proxy.stdout is not None
        line = proxy.stdout.readline()
        if "Starting to serve on" not in line:
            raise KubectlError(f"kubectl proxy did not start: {line!r}")
        with httpx.Client(base_url=f"http://{line.split()[-1]}", timeout=30.0, trust_env=False) as http:
            yield Kube(kubectl_binary, kubeconfig, http)
    finally:
        proxy.terminate()
        proxy.wait(10)

"""Load from inside the cluster: a pod that asks for completions without a pause and tells what it was answered.

All requests of a load are the same: one model, one prompt, greedy, so that the same weights always answer the same.
Every request has a connection of its own, as those of many small clients have, so that each one goes wherever the
Service sends it then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kube import Kube, is_ready, until
from stage import PROMPT, Engine

POD = "client"

SCRIPT = """
import json, sys, threading, time, urllib.error, urllib.request
order = json.loads(sys.argv[1])
until = time.time() + order["seconds"]
lock = threading.Lock()
def ask():
    while time.time() < until:
        began = time.time()
        call = urllib.request.Request(
            order["url"], json.dumps(order["body"]).encode(), {"content-type": "application/json"})
        try:
            choice = json.load(urllib.request.urlopen(call, timeout=60))["choices"][0]
            outcome = [choice["finish_reason"], choice["text"]]
        except urllib.error.HTTPError as error:
            outcome = [str(error.code), error.read().decode(errors="replace")[:300]]
        except Exception as error:
            outcome = [type(error).__name__, str(error)[:300]]
        with lock:
            print(json.dumps([began, time.time(), *outcome]), flush=True)
threads = [threading.Thread(target=ask) for _ in range(order["clients"])]
for one in threads: one.start()
for one in threads: one.join()
"""


@dataclass(frozen=True)
class Answer:
    """What became of one request; times are Unix seconds."""

    began: float
    ended: float
    outcome: str
    """`length` or `stop` as the engine says; otherwise an HTTP status or an exception."""
    text: str


@dataclass(frozen=True)
class Answers:
    """What became of all requests of a load."""

    all: tuple[Answer, ...]

    @property
    def outcomes(self) -> Counter[str]:
        """How often each outcome was."""
        return Counter(one.outcome for one in self.all)

    @property
    def texts(self) -> Counter[str]:
        """How often each text was, of the requests that were answered whole."""
        return Counter(one.text for one in self.all if one.outcome in ("length", "stop"))


def start_client(kube: Kube, namespace: str, engine: Engine) -> None:
    """Start the pod that the requests come from; it needs nothing but the Python in the engine's image."""
    container = {
        "name": "client",
        "image": engine.container["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", "import signal; signal.sigwait([signal.SIGTERM])"],
    }
    metadata = {"name": POD, "namespace": namespace}
    spec = {"containers": [container], "enableServiceLinks": False}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    path = f"/api/v1/namespaces/{namespace}/pods/{POD}"
    until("the client runs", lambda: kube.get(path), lambda pod: bool(pod) and is_ready(pod))


@contextmanager
def load(
    kube: Kube, namespace: str, service: str, model: str, *, seconds: float, clients: int = 4, tokens: int = 12
) -> Iterator[Future[Answers]]:
    """Ask a LoraAdapter's Service for completions for some seconds, while the body of the `with` does its work."""
    body: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0}
    url = f"http://{service}.{namespace}.svc.cluster.local/v1/completions"
    order = json.dumps({"url": url, "body": body, "seconds": seconds, "clients": clients})

    def run() -> Answers:
        printed = kube.kubectl(
            "-n", namespace, "exec", POD, "--", "python3", "-c", SCRIPT, order, timeout=seconds + 120
        )
        return Answers(tuple(Answer(*json.loads(line)) for line in printed.splitlines()))

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run)

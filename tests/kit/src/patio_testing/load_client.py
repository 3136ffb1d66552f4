"""Load from inside the cluster: a pod with clients (`load.py`) that ask without a pause, and what they were answered.

Every request has a connection of its own, as those of many small clients have, so that each one goes wherever the
Service sends it then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from patio_testing import environment
from patio_testing.kube import Kube, is_ready, until

POD = "clients"
SCRIPT = Path(__file__).with_name("load.py").read_text()
SERVED = "length"
"""The outcome of a request that got all tokens it asked for."""


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    url: str
    outcome: str
    """`length` where all is well; otherwise what went wrong."""
    text: str


@dataclass
class Answers:
    """What became of all requests of a load; filled when it is over."""

    all: list[Answer] = field(default_factory=list)

    def served(self, url: str) -> int:
        """Return how many requests to a URL got all they asked for."""
        return sum(answer.url == url and answer.outcome == SERVED for answer in self.all)

    def lost(self, url: str) -> list[str]:
        """Return what went wrong with requests to a URL."""
        return [answer.outcome for answer in self.all if answer.url == url and answer.outcome != SERVED]

    @property
    def outcomes(self) -> Counter[str]:
        """How often each outcome was."""
        return Counter(answer.outcome for answer in self.all)

    @property
    def texts(self) -> set[str]:
        """The texts of the requests that got all they asked for."""
        return {answer.text for answer in self.all if answer.outcome == SERVED}


def start_clients(kube: Kube, namespace: str, pod: str = POD) -> None:
    """Start a pod that requests come from, one load at a time; it needs nothing but a Python."""
    container = {
        "name": "clients",
        "image": environment.double().container["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", "import signal; signal.sigwait([signal.SIGTERM])"],
    }
    metadata = {"name": pod, "namespace": namespace}
    spec = {"containers": [container], "enableServiceLinks": False, "terminationGracePeriodSeconds": 1}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
    until("the clients' pod", lambda: kube.get(path), lambda found: bool(found) and is_ready(found))


@contextmanager
def load(
    kube: Kube,
    namespace: str,
    *urls: str,
    model: str = environment.BASE_MODEL,
    prompt: str = environment.PROMPT,
    tokens: tuple[int, int],
    clients: int = 4,
    pod: str = POD,
) -> Iterator[Answers]:
    """Have clients ask for the length of a `with`, greedily, so that the same weights always answer the same.

    Args:
        kube: the cluster.
        namespace: of the clients' pod.
        urls: whom to ask, each by so many clients.
        model: what to ask for.
        prompt: what to complete.
        tokens: how many tokens a request asks for, at least and at most.
        clients: of each URL.
        pod: where they run.

    """
    body = {"model": model, "prompt": prompt, "temperature": 0, "ignore_eos": True}
    order = json.dumps({"urls": urls, "clients": clients, "body": body, "tokens": tokens})
    execute = ("-n", namespace, "exec", "-i", pod, "--")
    answers = Answers()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(kube.kubectl, *execute, "python3", "-", order, stdin=SCRIPT, timeout=400.0)
        try:
            yield answers
        finally:
            kube.kubectl(*execute, "touch", "/tmp/stop")
        answers.all += [Answer(*fields) for fields in json.loads(running.result())]

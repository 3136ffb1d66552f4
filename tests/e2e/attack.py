"""What a user with the role `edit` in one namespace sends to the API server: a list, and mutations of it by a seed.

The list has one entry for each thing that once ended, misled or slowed the operator; the mutations are for what nobody
thought of. Everything is bounded by a count and a time, and goes through the API server with the user's own token.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

Object = dict[str, Any]

CORE = "/api/v1"
LORA = "/apis/patio.dev/v1alpha1"
GROUPS = "/apis/workloads.x-k8s.io/v1alpha2"
OLD_GROUPS = "/apis/workloads.x-k8s.io/v1alpha1"
FALSE_SIDECAR = Path(__file__).with_name("false_sidecar.py").read_text()
MODES = ("redirect", "bomb", "deep", "drip", "restless", "foreign")
ENOUGH_PODS = 12
"""Pods of the fuzzer that are there at once: a quota would say the same."""


def deep(opening: str, count: int) -> str:
    return opening * count


HOSTILE_TEXTS = (
    deep("[", 2_000),
    deep("[", 100_000),
    deep('{"a":', 20_000),
    "9" * 5_000,
    "1e999",
    "NaN",
    '"\\ud800"',
    "null",
    "[]",
    '{"patio": {"patio": []}}',
    "\u202e\x00"[:1],
    json.dumps(dict.fromkeys([f"p-{number}" for number in range(15_000)], "r")),
    "x" * 200_000,
)
"""Texts for annotations that Patio reads as JSON, each shorter than the API server's limit for them."""
READ_ANNOTATIONS = (
    "patio.dev/injected",
    "patio.dev/engine",
    "patio.dev/engine-runtimes",
    "patio.dev/rolled-profiles",
    "patio.dev/rolled-roles",
    "patio.dev/roll-at-once",
    "patio.dev/instances",
    "lora.patio.dev/names",
    "conversion.workloads.x-k8s.io/v1alpha1-pod-group-policy",
    "conversion.workloads.x-k8s.io/v1alpha1-coordination",
)
COMMANDS = (
    ["sh", "-c", "'" * 10_001 + "vllm serve m"],
    ["sh", "-c", "$(" * 5_000 + "vllm serve m" + ")" * 5_000],
    ["sh", "-c", 'sh -c "' * 300 + "vllm serve m --enable-lora"],
    ["vllm", "serve", "m", *("--port",) * 5_000],
    ["vllm", "serve", "m", "--port", "9" * 10_000, "--enable-lora"],
    ["sh", "-c", "cat <<EOF\n" * 2_000],
    ["vllm", "serve", "m" * 100_000],
)
URIS = (
    "hf://" + "a/" * 400,
    "s3://bucket/" + "../" * 300,
    "s3://169.254.169.254/x",
    "file:///proc/self/environ",
    "file:///var/run/secrets/kubernetes.io/serviceaccount",
    "pvc://" + "v" * 300,
    "http://neighbour/x",
    "hf://o/r@" + "r" * 500,
    "obs://bucket/%00",
)


def meta(namespace: str, name: str, **more: Any) -> Object:
    return {"name": name, "namespace": namespace, **more}


def pod(namespace: str, name: str, image: str, *, labels: Object, annotations: Object, command: list[str]) -> Object:
    container = {
        "name": "engine",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
    }
    return {
        "metadata": meta(namespace, name, labels=labels, annotations=annotations),
        # It never runs: what is read of it is read all the same, and the node keeps its room.
        "spec": {"containers": [container], "nodeSelector": {"nowhere": "at-all"}, "terminationGracePeriodSeconds": 0},
    }


def false_sidecar(namespace: str, mode: str, image: str) -> Object:
    """A pod that runs, with the labels and the container of an injected one."""
    container = {
        "name": "patio",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", FALSE_SIDECAR, mode],
        "ports": [{"name": "patio", "containerPort": 9091}],
        "resources": {"limits": {"memory": "900Mi" if mode == "bomb" else "128Mi"}},
    }
    return {
        "metadata": meta(
            namespace,
            f"false-{mode}",
            labels={"patio.dev/injected": "true", "app": "false"},
            annotations={
                "patio.dev/injected": '{"patio": "1"}',
                "patio.dev/engine": '{"engine": "vllm", "port": 8000}',
            },
        ),
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }


def adapter(namespace: str, name: str, **spec: Any) -> Object:
    base: Object = {"source": {"uri": "file:///adapters/x"}, "selector": {"matchLabels": {"app": "false"}}}
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": meta(namespace, name),
        "spec": base | spec,
    }


def group(namespace: str, name: str, version: str = "v1alpha2", **metadata: Any) -> Object:
    template = {"spec": {"containers": [{"name": "engine", "image": "nowhere/none"}], "nodeSelector": {"no": "where"}}}
    role: Object = {"name": "w", "replicas": 1}
    role |= {"standalonePattern": {"template": template}} if version == "v1alpha2" else {"template": template}
    return {
        "apiVersion": f"workloads.x-k8s.io/{version}",
        "kind": "RoleBasedGroup",
        "metadata": meta(namespace, name, **metadata),
        "spec": {"roles": [role]},
    }


@dataclass(frozen=True)
class Request:
    """One request of the user."""

    method: str
    path: str
    body: Object | None = None


def scripted(namespace: str, image: str, secret: str) -> Iterator[Request]:
    """Yield the list, once."""
    pods, loras = f"{CORE}/namespaces/{namespace}/pods", f"{LORA}/namespaces/{namespace}/loraadapters"
    groups = f"{GROUPS}/namespaces/{namespace}/rolebasedgroups"
    numbers = itertools.count()
    for mode in MODES:
        yield Request("POST", pods, false_sidecar(namespace, mode, image))
    for text, key in itertools.product(HOSTILE_TEXTS, READ_ANNOTATIONS):
        labels = {"patio.dev/injected": "true", "app": "false", "lora.patio.dev/x": "loaded"}
        name = f"odd-{next(numbers)}"
        yield Request("POST", pods, pod(namespace, name, image, labels=labels, annotations={key: text}, command=["x"]))
        yield Request("DELETE", f"{pods}/{name}")
    for text, key in itertools.product(HOSTILE_TEXTS[:6], READ_ANNOTATIONS[2:]):
        name = f"odd-{next(numbers)}"
        yield Request("POST", groups, group(namespace, name, annotations={key: text}))
        yield Request("GET", f"{OLD_GROUPS}/namespaces/{namespace}/rolebasedgroups/{name}")
        yield Request("DELETE", f"{groups}/{name}")
    for command in COMMANDS:
        name = f"odd-{next(numbers)}"
        labels = {"patio.dev/profile": "patio", "app": "false"}
        yield Request("POST", pods, pod(namespace, name, image, labels=labels, annotations={}, command=command))
        yield Request("DELETE", f"{pods}/{name}")
    # Signs of upstream's controller.
    labels = {"control-plane": "rbgs-controller", "app.kubernetes.io/name": "rbgs"}
    yield Request("POST", pods, pod(namespace, "signs", image, labels=labels, annotations={}, command=["x"]))
    lease = {"holderIdentity": "x", "renewTime": "2036-01-01T00:00:00.000000Z", "leaseDurationSeconds": 999999}
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    yield Request("POST", leases, {"metadata": meta(namespace, "rbg-controller"), "spec": lease})
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "manager", "image": "x"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    yield Request("POST", deployments, {"metadata": meta(namespace, "rbgs-controller-manager"), "spec": spec})
    # LoraAdapters that ask for what is not theirs, and for too much.
    for number, uri in enumerate(URIS):
        yield Request("POST", loras, adapter(namespace, f"uri-{number}", source={"uri": uri}))
    for number, endpoint in enumerate(
        (
            "http://169.254.169.254",
            "http://false.example",
            "https://127.0.0.1:9091",
            "http://[fe80::1]",
            "http://0x7f.1",
        )
    ):
        source = {"uri": "s3://bucket/x", "endpoint": endpoint, "secretRef": {"name": secret}}
        yield Request("POST", loras, adapter(namespace, f"endpoint-{number}", source=source))
    yield Request("POST", loras, adapter(namespace, "kept", adapterName="kept", service=True))
    yield Request("POST", loras, adapter(namespace, "huge", replicas=2**31 - 1))
    requirements = [{"key": "app", "operator": "In", "values": [f"v{number}" for number in range(20_000)]}]
    yield Request("POST", loras, adapter(namespace, "many", selector={"matchExpressions": requirements}))
    yield Request("POST", loras, adapter(namespace, "all", selector={}))
    source = {"uri": "s3://bucket/x", "endpoint": "https://store.example", "secretRef": {"name": secret}}
    yield Request("POST", loras, adapter(namespace, "secret", source=source))
    for finalizers in (["patio.dev/unload"], ["mallory.example/keep"], []):
        yield Request("PATCH", f"{loras}/secret", {"metadata": {"finalizers": finalizers}})
    yield Request("PATCH", f"{loras}/secret/status", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    flood = {f"lora.patio.dev/{number}": "loaded" for number in range(2_000)}
    yield Request("PATCH", f"{pods}/false-foreign", {"metadata": {"labels": flood}})
    for number in range(100):  # keys that nobody may remember
        labels = {"rbg.workloads.x-k8s.io/group-name": f"job-{number}", "patio.dev/injected": "true"}
        name = f"key-{number}"
        yield Request("POST", pods, pod(namespace, name, image, labels=labels, annotations={}, command=["x"]))
        yield Request("DELETE", f"{pods}/{name}")
        yield Request("POST", groups, group(namespace, name))
        yield Request("DELETE", f"{groups}/{name}")
    for number in range(200):
        yield Request("POST", loras, adapter(namespace, f"burst-{number}", service=number % 20 == 0))
    for number in range(200):
        yield Request("DELETE", f"{loras}/burst-{number}")


def mutations(namespace: str, image: str, rng: random.Random) -> Iterator[Request]:
    """Yield changes of sound objects, without an end."""
    pods, loras = f"{CORE}/namespaces/{namespace}/pods", f"{LORA}/namespaces/{namespace}/loraadapters"
    groups = f"{GROUPS}/namespaces/{namespace}/rolebasedgroups"
    for number in itertools.count():
        name = f"fuzz-{number % ENOUGH_PODS}"
        labels = {"patio.dev/injected": "true", "patio.dev/profile": "patio", "app": "false"}
        annotations = {rng.choice(READ_ANNOTATIONS): rng.choice(HOSTILE_TEXTS)}
        command = ["vllm", "serve", "m", "--enable-lora"]
        path, body = rng.choice(
            (
                (pods, pod(namespace, name, image, labels=labels, annotations=annotations, command=command)),
                (loras, adapter(namespace, name, replicas=1, pinned=True, adapterName="a")),
                (groups, group(namespace, name)),
            )
        )
        for _ in range(rng.randint(1, 3)):
            mutate(body, rng)
        yield Request("DELETE", f"{path}/{name}")
        yield Request("POST", path, body)
        yield Request("PATCH", f"{path}/{name}", {"metadata": body.get("metadata"), "spec": body.get("spec")})


ODD_VALUES: tuple[Any, ...] = (
    None,
    "",
    0,
    -1,
    2**63 - 1,
    1.5,
    True,
    [],
    {},
    [[]],
    {"": ""},
    "x" * 300,
    "ü\u0000",
    [None],
)


def mutate(body: Object, rng: random.Random) -> None:
    """Replace one value somewhere inside."""
    at: Any = body
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.8:
            at = at[key]
            continue
        at[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        return


@dataclass
class Attack:
    """A user who sends all of it for some time, from a thread of its own."""

    server: str
    ca: str
    token: str
    namespace: str
    image: str
    secret: str
    seed: int
    answers: Counter[str] = field(default_factory=Counter)
    problem: BaseException | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self, seconds: float) -> None:
        """Send the list, and then mutations until the time is over or `stop` is called."""
        deadline = time.monotonic() + seconds
        headers = {"authorization": f"Bearer {self.token}"}
        context = ssl.create_default_context(cadata=self.ca)
        listed = scripted(self.namespace, self.image, self.secret)
        fuzzed = mutations(self.namespace, self.image, random.Random(self.seed))
        try:
            with httpx.Client(
                base_url=self.server, verify=context, headers=headers, timeout=60, trust_env=False
            ) as http:
                for request in itertools.chain(listed, fuzzed):
                    if self._over.is_set() or time.monotonic() > deadline:
                        return
                    self._send(http, request)
        except BaseException as error:
            self.problem = error
            raise

    def stop(self) -> None:
        """End it after the request in progress."""
        self._over.set()

    def _send(self, http: httpx.Client, request: Request) -> None:
        kind = "application/merge-patch+json" if request.method == "PATCH" else "application/json"
        content = None if request.body is None else json.dumps(request.body)
        try:
            answer = http.request(request.method, request.path, content=content, headers={"content-type": kind})
        except httpx.HTTPError as error:
            self.answers[f"{request.method} {type(error).__name__}"] += 1
        else:
            self.answers[f"{request.method} {answer.status_code}"] += 1

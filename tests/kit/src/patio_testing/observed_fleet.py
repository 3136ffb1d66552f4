"""`python -m patio_testing.observed_fleet`: a small fleet whose numbers move, scraped by a real Prometheus.

For the pictures of the dashboards. Real sidecars stand in front of engine doubles of both kinds, a real router has the
SGLang ones, and clients send requests. With `--vllm` the engine of one model is a real vLLM. On the way adapters are
downloaded, one adapter is broken, the clients double, and one engine crashes and starts again. The operator's metrics
are simulated, since there is no cluster.

When the time is over, the answers to the dashboards' queries are written to a file, and it prints how many have data.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import random
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import start_http_server

from e2e_cluster.packages import ensure_packages
from e2e_cluster.progress import silent
from e2e_engine import environment, launch
from e2e_engine import model as model_files
from e2e_engine.__main__ import model_directory
from e2e_engine.process import LIBNUMA, LocalVllm
from engine_double.samples import write_adapter
from inference_server.ports import free_port
from patio_observability import panel_data
from patio_protocol.adapters import LoadRequest
from patio_protocol.errors import SidecarError
from patio_testing.operator_metrics_simulator import OperatorReplica
from patio_testing.prometheus_server import prometheus
from patio_testing.sidecar.download_sources import ACCESS_KEY, SECRET_KEY, Proxy, S3Server, s3_server
from patio_testing.sidecar.processes import Machine, PodProcesses, RouterProcess, kill, machine, runs

ROOT = Path(__file__).resolve().parents[4]
SCRAPE_EVERY = 10
"""Seconds between two scrapes."""
WARM_UP = 90.0
"""Seconds that it runs before the time that is shown, so that rates have values from the start."""
DOWN = 40.0
"""Seconds for which the crashed engine stays away."""
TOKENS_PER_SECOND = 12.0
MOST_AT_ONCE = 6
"""Requests in a batch."""
CLIENTS = 4
"""Clients of each engine; twice as many when it is busiest."""
WEIGHTS = 12 * 2**20
"""Bytes of an adapter's weights."""
REAL_ADAPTERS = {"sql-expert": "lora-a", "translator": "lora-b", "summarizer": "lora-a", "reranker": "lora-b"}
"""Which weights of the tiny model are loaded under these names where the engine is real."""
BYTES_PER_SECOND = 250_000.0
"""Speed of each connection to the store of adapters."""


@dataclass(frozen=True)
class Model:
    """One model, its engines and where they are."""

    engine: str
    name: str
    namespace: str
    group: str
    pods: int
    context: int
    real: bool = False
    """Whether the engine is a real one."""


MODELS = (
    Model("vllm", "llama-3.1-8b", "team-a", "chat", 3, 8192),
    Model("sglang", "qwen-2.5-7b", "team-b", "search", 2, 4096),
)

REAL_VLLM = Model("vllm", model_files.NAME, "team-a", "chat", 1, launch.MAX_MODEL_LEN, real=True)


@dataclass
class Fleet:
    """What runs."""

    machine: Machine
    folder: Path
    models: tuple[Model, Model]
    """Of vLLM, and of SGLang."""
    seconds: float
    chance: random.Random
    pods: dict[str, tuple[Model, PodProcesses]] = field(default_factory=dict)
    clients: int = CLIENTS
    """Clients of each engine at the moment."""

    def of(self, model: Model) -> list[PodProcesses]:
        """Return the pods of a model."""
        return [pod for of, pod in self.pods.values() if of is model]

    def has_real_engine(self, pods: list[PodProcesses]) -> bool:
        """Whether one of these pods has a real engine, which takes only adapters of its model."""
        return any(model.real for model, pod in self.pods.values() if pod in pods)


def main() -> None:
    """Run the fleet for the time that is asked for, and write what the dashboards show of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="how long it runs (%(default)s)")
    parser.add_argument("--vllm", action="store_true", help="have a real vLLM in the fleet")
    parser.add_argument("file", type=Path, help="where the answers to the queries of all panels are written")
    options = parser.parse_args()
    seconds = options.minutes * 60
    # The store would log every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="patio-fleet-") as folder, s3_server() as store:
        models = (REAL_VLLM if options.vllm else MODELS[0], MODELS[1])
        print(asyncio.run(_observe(Path(folder), models, store, seconds, options.file)))


async def _observe(
    folder: Path, models: tuple[Model, Model], store: S3Server, seconds: float, file: Path
) -> panel_data.Counts:
    operators = {f"patio-operator-{number}": OperatorReplica(number) for number in range(2)}
    ports = {name: _serve(replica) for name, replica in operators.items()}
    async with _started(folder, models, seconds) as fleet:
        with prometheus(folder, _configuration(fleet, ports)) as url:
            tasks = [
                asyncio.create_task(coroutine)
                for coroutine in (
                    _operate(list(operators.values()), seconds),
                    _tell_caches(fleet),
                    _story(fleet, store),
                    *(_clients(fleet, model, pod) for model, pod in fleet.pods.values()),
                )
            ]
            done, _ = await asyncio.wait(tasks, timeout=WARM_UP + seconds, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()
            span = panel_data.last(seconds, time.time())
            return await asyncio.to_thread(panel_data.collect, url, span, file)


@contextlib.asynccontextmanager
async def _started(folder: Path, models: tuple[Model, Model], seconds: float) -> AsyncIterator[Fleet]:
    async with machine(folder) as started:
        router = RouterProcess(started, "sglang-router")
        fleet = Fleet(started, folder, models, seconds, random.Random(7))
        for model in models:
            for number in range(model.pods):
                name = f"{model.group}-worker-{number}"
                topology = {"TOPO_TYPE": "none"}
                if model.engine == "sglang":
                    topology = {"TOPO_TYPE": "SGLang", "TOPO_REGISTER_ENDPOINT": router.url}
                variables = {
                    "INFERENCE_ENGINE_VERSION": {"vllm": "0.32.0", "sglang": "0.5.23"}[model.engine],
                    "POD_NAMESPACE": model.namespace,
                    "PATIO_ACCESS_CONTROL": "off",
                    "PATIO_DOWNLOAD_ROOT": str(folder / name / "adapters"),
                    "PATIO_DOWNLOAD_PLAIN_HTTP": "allow",
                    **topology,
                }
                fleet.pods[name] = model, PodProcesses(started, name, model.engine, variables)
        await router.start()
        for model, pod in fleet.pods.values():
            await _start_engine(fleet, model, pod)
            await pod.start_sidecar()
        for _, pod in fleet.pods.values():
            await started.answers(f"http://127.0.0.1:{pod.sidecar_port}/ready", pod.sidecar)
        yield fleet


async def _start_engine(fleet: Fleet, model: Model, pod: PodProcesses) -> None:
    if model.real:
        await _start_vllm(fleet, pod)
        return
    # The last flag wins: the double's own name is one for all.
    await pod.start_engine(
        *("--served-model-name", model.name, "--enable-lora", "--max-loras", "4", "--lora-load-seconds", "2"),
        *("--tokens-per-second", str(TOKENS_PER_SECOND), "--max-num-seqs", str(MOST_AT_ONCE)),
        *("--max-model-len", str(model.context)),
    )
    await fleet.machine.answers(f"{pod.url}/health", pod.engine)


async def _start_vllm(fleet: Fleet, pod: PodProcesses) -> None:
    scratch = fleet.folder / f"{pod.name}-engine"
    scratch.mkdir(exist_ok=True)
    ensure_packages([LIBNUMA], silent)
    installed = await asyncio.to_thread(environment.install, silent)
    pod.engine = LocalVllm(installed, model_files.write(model_directory()), scratch, port=pod.engine_port)
    fleet.machine.started.append(pod.engine)
    await asyncio.to_thread(pod.engine.start)


def _serve(replica: OperatorReplica) -> int:
    port = free_port()
    start_http_server(port, addr="127.0.0.1", registry=replica.metrics.registry)
    return port


def _configuration(fleet: Fleet, operators: dict[str, int]) -> dict[str, Any]:
    sidecars = [
        {
            "targets": [f"127.0.0.1:{pod.sidecar_port}"],
            "labels": {
                "namespace": model.namespace,
                "pod": pod.name,
                "rbg_workloads_x_k8s_io_group_name": model.group,
                "rbg_workloads_x_k8s_io_role_name": "worker",
            },
        }
        for model, pod in fleet.pods.values()
    ]
    replicas = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "patio-system", "pod": name}}
        for name, port in operators.items()
    ]
    return {
        "global": {"scrape_interval": f"{SCRAPE_EVERY}s", "evaluation_interval": f"{SCRAPE_EVERY}s"},
        "rule_files": [str(ROOT / "charts/patio/rules/patio.rules.yaml")],
        "scrape_configs": [
            {"job_name": "patio-sidecar", "static_configs": sidecars},
            {"job_name": "patio-operator", "static_configs": replicas},
        ],
    }


async def _operate(replicas: list[OperatorReplica], seconds: float) -> None:
    """Let the operators work: the second one leads from a third of the time on."""
    for second in itertools.count():
        leader = 0 if second < WARM_UP + seconds / 3 else 1
        for number, replica in enumerate(replicas):
            replica.advance(leads=number == leader)
        await asyncio.sleep(1)


async def _tell_caches(fleet: Fleet) -> None:
    """Set what no double has: how full the KV cache is, what the prefix cache had, and preemptions."""
    preempted = dict.fromkeys(fleet.pods, 0.0)
    while True:
        for name, (model, pod) in fleet.pods.items():
            if model.real:
                continue
            with contextlib.suppress(httpx.HTTPError):
                state = (await fleet.machine.http.get(f"{pod.url}/_double/state")).json()
                busy = min(1.0, (state["running"] + state["waiting"] / 2) / (MOST_AT_ONCE + 2))
                full = round(busy * fleet.chance.uniform(0.85, 1.0), 3)
                preempted[name] += full > 0.9
                await fleet.machine.http.put(
                    f"{pod.url}/_double/metrics", json=_cache_metrics(model.engine, full, preempted[name])
                )
        await asyncio.sleep(SCRAPE_EVERY / 2)


def _cache_metrics(engine: str, full: float, preempted: float) -> dict[str, float]:
    if engine == "vllm":
        return {"vllm:kv_cache_usage_perc": full, "vllm:num_preemptions_total": preempted}
    return {"sglang:token_usage": full, "sglang:num_retracted_requests_total": preempted}


async def _clients(fleet: Fleet, model: Model, pod: PodProcesses) -> None:
    """Send requests to one engine, from as many clients as the fleet has for each of them."""
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=4 * CLIENTS)) as http:

        async def client(number: int) -> None:
            while True:
                if number >= fleet.clients or pod.engine is None or not runs(pod.engine):
                    await asyncio.sleep(1)
                    continue
                await _request(fleet, model, pod, http)
                await asyncio.sleep(fleet.chance.uniform(0, 3))

        async with asyncio.TaskGroup() as group:
            for number in range(2 * CLIENTS):
                group.create_task(client(number))


async def _request(fleet: Fleet, model: Model, pod: PodProcesses, http: httpx.AsyncClient) -> None:
    """Send one request. Engines come and go here, so that one may fail is part of it."""
    words = round(fleet.chance.lognormvariate(4.5, 0.9))
    body = {
        "model": fleet.chance.choice((model.name, model.name, *_lasting_adapters(model))),
        "prompt": "patio " * min(words, model.context // 2),
        "max_tokens": min(400, model.context // 3, 1 + round(fleet.chance.lognormvariate(3.6, 0.7))),
    }
    with contextlib.suppress(httpx.HTTPError):
        await http.post(f"{pod.url}/v1/completions", json=body)


def _lasting_adapters(model: Model) -> tuple[str, ...]:
    return ("sql-expert", "translator") if model.engine == "vllm" else ("search-rewrite",)


async def _story(fleet: Fleet, store: S3Server) -> None:
    """Order adapters, double the clients, break an adapter and crash an engine, each at its time."""
    chat, search = (fleet.of(model) for model in fleet.models)
    with _slow(store) as endpoint:
        await _load_from_disk(fleet, chat, "sql-expert")
        await _load_from_disk(fleet, search, "search-rewrite")
        await asyncio.sleep(WARM_UP + fleet.seconds * 0.08)
        await _load_from_disk(fleet, chat[:2], "translator")
        await asyncio.sleep(fleet.seconds * 0.12)
        await _load_from_store(fleet, store, endpoint, chat, "summarizer")
        await asyncio.sleep(fleet.seconds * 0.2)
        fleet.clients = 2 * CLIENTS
        await asyncio.sleep(fleet.seconds * 0.1)
        await _load_from_disk(fleet, chat[:1], "legal-draft", rank=512)
        await asyncio.sleep(fleet.seconds * 0.1)
        fleet.clients = CLIENTS
        await asyncio.sleep(fleet.seconds * 0.05)
        await kill(chat[-1].engine)
        await asyncio.sleep(DOWN)
        await _start_engine(fleet, fleet.models[0], chat[-1])
        await _load_from_store(fleet, store, endpoint, [*chat[:2], *search], "reranker")
        await asyncio.sleep(fleet.seconds)


@contextlib.contextmanager
def _slow(store: S3Server) -> Iterator[str]:
    address = httpx.URL(store.url)
    proxy = Proxy((address.host, address.port or 80), rate=BYTES_PER_SECOND)
    proxy.start()
    try:
        yield proxy.url
    finally:
        proxy.stop()


async def _load_from_disk(fleet: Fleet, pods: list[PodProcesses], name: str, rank: int = 8) -> None:
    good = REAL_ADAPTERS.get(name) if fleet.has_real_engine(pods) else None
    folder = write_adapter(fleet.folder / "on-disk" / name, rank=rank) if good is None else _real_adapter(good)
    await _load(pods, LoadRequest(lora_name=name, lora_path=str(folder), wait=0))


async def _load_from_store(fleet: Fleet, store: S3Server, endpoint: str, pods: list[PodProcesses], name: str) -> None:
    files = _files_for_doubles()
    if fleet.has_real_engine(pods):
        files = {path.name: path.read_bytes() for path in _real_adapter(REAL_ADAPTERS[name]).iterdir()}
    await asyncio.to_thread(store.put, "adapters", {f"{name}/{path}": content for path, content in files.items()})
    config = json.dumps({"endpoint": endpoint, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY})
    await _load(pods, LoadRequest(lora_name=name, source=f"s3://adapters/{name}", config=config, wait=0))


def _real_adapter(name: str) -> Path:
    """Return the folder of an adapter that a real vLLM takes for its tiny model."""
    return model_directory() / "adapters" / name


def _files_for_doubles() -> dict[str, bytes]:
    """Return an adapter that takes its time to be downloaded, and that doubles accept."""
    facts = {"r": 8, "use_dora": False, "target_modules": ["q_proj", "v_proj"]}
    header = json.dumps({"w": {"dtype": "U8", "shape": [WEIGHTS], "data_offsets": [0, WEIGHTS]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(WEIGHTS)
    return {"adapter_config.json": json.dumps(facts).encode(), "adapter_model.safetensors": weights}


async def _load(pods: list[PodProcesses], order: LoadRequest) -> None:
    """Order an adapter. What becomes of it is what the dashboards show, so no answer is an error here."""
    for pod in pods:
        with contextlib.suppress(SidecarError):
            await pod.client.load(order)


if __name__ == "__main__":
    main()

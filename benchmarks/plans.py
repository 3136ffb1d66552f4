"""Part of `make bench-fleet`: passes over many LoraAdapters and pods in one process, without an API server.

What is measured is the operator's own work: the watches' decoding of LoraAdapters and pods, the reading of sidecars'
answers, a pass that orders and tells nothing new, and how long the event loop is held at most, garbage collections
included. Each case is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from patio_kube.client import KubeClient, Object
from patio_kube.resources import LORA_ADAPTER, POD, Resource
from patio_operator.caches import Caches
from patio_operator.loraadapters.dispatcher import Dispatcher
from patio_operator.loraadapters.label_writer import LabelWriter
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.plan import Load, Unload
from patio_operator.loraadapters.planner.selection import source_revision
from patio_operator.loraadapters.reconciler import AdapterReconciler
from patio_operator.loraadapters.secret_reader import SecretReader
from patio_operator.loraadapters.service_writer import ServiceWriter
from patio_operator.loraadapters.sidecar_answer import read_answer
from patio_operator.loraadapters.sidecar_watch import SidecarWatch
from patio_operator.loraadapters.status_writer import StatusWriter

CASES = ((100, 1000, 1000), (2000, 5000, 50), (2000, 5000, 100))
NAMESPACE = "fleet"
PASSES = 3
TICK = 0.001


@dataclass
class Fleet:
    """An API server's objects and sidecars' answers, without either."""

    adapters: int
    pods: int
    of_each: int
    """Pods that each LoraAdapter selects."""
    statuses: dict[str, bytes] = field(default_factory=dict)
    """Compressed: they are none of the operator's memory."""
    orders: int = 0
    version: int = 10
    manager: str = "patio-operator"

    @property
    def apps(self) -> int:
        """Groups of pods that are selected alike."""
        return max(1, self.pods // self.of_each)

    def adapter(self, number: int) -> Object:
        """Return a LoraAdapter as the API server has it."""
        name = f"adapter-{number}"
        self.version += 1
        return {
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": f"00000000-0000-0000-0000-{number:012}",
                "generation": 1,
                "resourceVersion": str(self.version),
                "creationTimestamp": "2026-11-21T10:00:00Z",
                "finalizers": ["patio.dev/unload"],
            },
            "spec": {
                "source": {"uri": f"s3://adapters/team/{name}/3"},
                "selector": {"matchLabels": {"app": f"app-{number % self.apps}"}},
            },
            "status": json.loads(zlib.decompress(self.statuses[name])) if name in self.statuses else {},
        }

    def pod(self, number: int) -> Object:
        """Return a pod as the API server has it, labelled."""
        labels = {"app": f"app-{number % self.apps}", "patio.dev/injected": "true"}
        for adapter in self.of_pod(number):
            labels[f"lora.patio.dev/adapter-{adapter}"] = "loaded"
            labels[f"owner.lora.patio.dev/00000000-0000-0000-0000-{adapter:012}"] = f"adapter-{adapter}"
        ports = [{"name": "patio", "containerPort": 9091}]
        return {
            "metadata": {
                "name": f"pod-{number}",
                "namespace": NAMESPACE,
                "uid": f"pod-{number}",
                "resourceVersion": "1",
                "labels": labels,
            },
            "spec": {"nodeName": f"node-{number % 500}", "initContainers": [{"name": "patio", "ports": ports}]},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        }

    def of_pod(self, number: int) -> range:
        """Return the LoraAdapters that select a pod."""
        return range(number % self.apps, self.adapters, self.apps)

    def answer(self, number: int, revisions: Mapping[int, str]) -> bytes:
        """Return what a pod's sidecar says."""
        adapters = [
            {
                "lora_name": f"adapter-{index}",
                "lora_path": f"/var/lib/patio/adapters/{index}",
                "source": f"s3://adapters/team/adapter-{index}/3",
                "owner": f"LoraAdapter/{NAMESPACE}/adapter-{index}",
                "revision": revisions[index],
                "held_revision": revisions[index],
                "state": "Loaded",
                "reason": "Loaded",
                "message": "",
                "attempts": 1,
                "since": 1.7e9 + number,
            }
            for index in self.of_pod(number)
        ]
        body = {"revision": f"r-{number}", "engine": "vllm", "engine_ready": True, "base_models": ["qwen"]}
        return json.dumps(body | {"adapters": adapters}).encode()

    # What the shells ask of a `Cluster`.

    async def pages(self, kind: Resource, *_: object) -> AsyncGenerator[tuple[list[Object], str], None]:
        """List."""
        made = {LORA_ADAPTER: (self.adapter, self.adapters), POD: (self.pod, self.pods)}
        make, number = made.get(kind, (self.adapter, 0))
        for start in range(0, number, 100):
            await asyncio.sleep(0)
            yield [make(index) for index in range(start, min(start + 100, number))], "5"
        if not number:
            yield [], "5"

    async def watch(self, *_: object) -> AsyncIterator[Object]:
        """Watch, in vain."""
        await asyncio.Event().wait()
        yield {}

    async def merge(
        self, kind: Resource, name: str, namespace: str, patch: Object, subresource: str | None = None
    ) -> Object:
        """Write a status."""
        assert (kind, subresource) == (LORA_ADAPTER, "status"), f"{kind.plural} {name} {namespace}: {patch}"
        self.statuses[name] = zlib.compress(json.dumps(patch["status"]).encode(), 1)
        return self.adapter(int(name.removeprefix("adapter-")))

    async def create(self, *_: object) -> Object:
        """Record an event."""
        return {}


class _Sidecars:
    def __init__(self, views: dict[str, Observation]) -> None:
        self._views = views

    def follow(self, *_: object) -> bool:
        return False

    async def first_answers(self, *_: object) -> None:
        return None

    def seen(self, _: str) -> dict[str, Observation]:
        return self._views


class _Orders:
    count = 0

    def rejections(self, *_: object) -> dict[Any, Any]:
        return {}

    def dispatch(self, orders: Iterable[Load | Unload], _: object) -> None:
        self.count += len(list(orders))


class _Secrets:
    async def credentials(self, _: object) -> dict[str, Any]:
        return {}


@asynccontextmanager
async def watched_loop(held: list[tuple[float, float]]) -> AsyncIterator[None]:
    """Measure for how long the event loop is held, in seconds and in seconds of CPU: on a busy machine others run."""

    async def tick() -> None:
        last = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter(), time.thread_time()
            held.append((now[0] - last[0] - TICK, now[1] - last[1]))
            last = now

    task = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def measure(adapters: int, pods: int, of_each: int) -> None:
    """Measure one case."""
    fleet = Fleet(adapters, pods, of_each)
    known = Caches(cast("KubeClient", fleet))
    tasks = [asyncio.create_task(watch) for watch in known.watches()]
    while not (known.pods.synced_in(NAMESPACE) and known.adapters.synced_in(NAMESPACE)):  # noqa: ASYNC110 - a benchmark's own setting up
        await asyncio.sleep(0.01)
    revisions = {
        int(cached.adapter.metadata.name.removeprefix("adapter-")): source_revision(cached.adapter)
        for cached in known.adapters.all(NAMESPACE)
    }
    views = {
        f"pod-{number}": Observation(read_answer(fleet.answer(number, revisions)), ever_answered=True)
        for number in range(pods)
    }
    orders = _Orders()
    cluster = cast("KubeClient", fleet)
    reconciler = AdapterReconciler(
        cluster,
        known.pods,
        known.adapters,
        cast("SecretReader", _Secrets()),
        cast("SidecarWatch", _Sidecars(views)),
        cast("Dispatcher", orders),
        LabelWriter(cluster, known.pods, lambda: datetime.now(UTC), random.Random(0), lambda _: None, lambda *_: False),
        ServiceWriter(cluster, known.services, time.monotonic),
        StatusWriter(cluster, known.adapters, time.monotonic),
        lambda: datetime.now(UTC),
        clock := _Clock(),
    )
    await reconciler.reconcile((NAMESPACE,))
    placements = sum(len(fleet.of_pod(number)) for number in range(pods))
    print(f"\n{adapters} LoraAdapters, {pods} pods, {of_each} pods each ({placements} placements)")
    for number in range(PASSES):
        clock.seconds += 1000
        held: list[tuple[float, float]] = []
        began, cpu = time.perf_counter(), time.process_time()
        async with watched_loop(held):
            await reconciler.reconcile((NAMESPACE,))
        elapsed, used = time.perf_counter() - began, time.process_time() - cpu
        what = "first pass, all statuses written" if number == 0 else "a pass, nothing changed"
        wall, of_cpu = (max((span[which] for span in held), default=0.0) * 1000 for which in (0, 1))
        print(
            f"  {what}: {elapsed:.2f} s, {used:.2f} s of CPU; the loop held {wall:.0f} ms at most, "
            f"{of_cpu:.0f} ms of CPU"
        )
    assert orders.count == 0, "what is there is as declared"
    now, most = memory()
    print(f"  memory: {now:.0f} MB, {most:.0f} MB at most", flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def memory() -> tuple[float, float]:
    """Return the process's resident memory in MB, now and at most."""
    text = Path("/proc/self/status").read_text()
    now, most = (int(re.findall(rf"{name}:\s+(\d+)", text)[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


class _Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def in_processes() -> None:
    """Measure all cases."""
    for case in CASES:
        subprocess.run([sys.executable, "-m", "benchmarks.plans", *map(str, case)], check=True)


def main() -> None:
    """Measure one case, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", type=int, nargs="*", help="LoraAdapters, pods, pods that each selects")
    arguments = parser.parse_args()
    if arguments.case:
        asyncio.run(measure(*arguments.case))
    else:
        in_processes()


if __name__ == "__main__":
    main()

"""An edit or a deletion of a LoraAdapter that meets the operator's own write is noticed."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from patio_kube.resources import LORA_ADAPTER, POD
from patio_kube.runtime.workqueue import WorkQueue
from patio_operator.caches import Caches
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.selection import load_request
from patio_operator.loraadapters.reconciler import AdapterReconciler
from patio_operator.loraadapters.status_writer import StatusWriter
from patio_testing.operator.builders import lora_adapter, report, seen
from patio_testing.operator.waiting import until

Object = dict[str, Any]


def adapter(uri: str, version: int, generation: int, **changes: Any) -> Object:
    metadata = {
        "name": "sql",
        "namespace": "team",
        "uid": "uid-sql",
        "resourceVersion": str(version),
        "generation": generation,
        "creationTimestamp": "2026-11-21T10:00:00Z",
        "finalizers": ["patio.dev/unload"],
    }
    spec = {"source": {"uri": uri}, "selector": {"matchLabels": {"app": "vllm"}}}
    return {"metadata": metadata | changes.pop("metadata", {}), "spec": spec} | changes


A_POD = {
    "metadata": {
        "name": "p",
        "namespace": "team",
        "uid": "u",
        "resourceVersion": "1",
        "labels": {"app": "vllm", "patio.dev/injected": "true", "lora.patio.dev/sql": "loaded"},
    },
    "spec": {"containers": [{"name": "patio", "ports": [{"name": "patio", "containerPort": 9091}]}]},
    "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
}


class ApiServer:
    """Stores a user's change (version 6) just before the operator's first status (version 7); the watch is late."""

    def __init__(self, change: Object) -> None:
        self.change = change
        self.stream: asyncio.Queue[Object] = asyncio.Queue()
        self.writes = 0

    async def pages(self, kind: Any, scope: Any) -> AsyncIterator[tuple[list[Object], str]]:
        if kind is LORA_ADAPTER:
            yield [adapter("file:///v1", 5, 1)], "5"
        elif kind is POD and not scope.metadata_only:
            yield [A_POD], "5"
        else:
            yield [], "5"

    async def watch(self, kind: Any, *_: Any) -> AsyncIterator[Object]:
        while True:
            if kind is LORA_ADAPTER:
                yield await self.stream.get()
            else:
                await asyncio.Event().wait()

    async def merge(
        self, kind: Any, name: str, namespace: str, patch: Object, subresource: str | None = None
    ) -> Object:
        self.writes += 1
        stored = copy.deepcopy(self.change) | ({"status": patch["status"]} if subresource == "status" else {})
        stored["metadata"]["resourceVersion"] = str(6 + self.writes)
        if self.writes == 1:
            for body in (self.change, stored):
                self.stream.put_nowait({"type": "MODIFIED", "object": body})
        return stored

    async def create(self, *_: Any) -> Object:
        return {}


class Idle:
    """What orders, labels, Services and Secrets are asked, with nothing behind it; what is ordered is noted."""

    def __init__(self) -> None:
        self.ordered: list[str] = []
        request = load_request(lora_adapter("sql", uri="file:///v1"))
        self.answers = {"u": seen(report(request))}

    def follow(self, *_: Any) -> None: ...
    async def first_answers(self, *_: Any) -> None: ...
    def seen(self, _: str) -> Mapping[str, Observation]:
        return self.answers

    def rejections(self, *_: Any) -> Mapping[Any, Any]:
        return {}

    def unlabelled(self, *_: Any) -> Mapping[Any, Any]:
        return {}

    def dispatch(self, orders: Iterable[Any], *_: Any) -> None:
        self.ordered += [type(order).__name__ for order in orders]

    apply = dispatch

    async def write(self, *_: Any) -> None: ...
    def requeue_after(self, *_: Any) -> None: ...
    def forget(self, *_: Any) -> None: ...
    async def credentials(self, adapters: Iterable[Any]) -> Mapping[str, Any]:
        return {adapter.metadata.name: None for adapter in adapters if False}

    async def close(self) -> None: ...


@asynccontextmanager
async def operator(change: Object) -> AsyncIterator[tuple[Caches, Idle]]:
    api, idle = ApiServer(change), Idle()
    known = Caches(api)  # type: ignore[arg-type]
    clock = asyncio.get_running_loop().time
    parts: list[Any] = [idle] * 5
    secrets, watch, orders, labels, services = parts
    statuses = StatusWriter(api, known.adapters, clock)  # type: ignore[arg-type]
    reconciler = AdapterReconciler(
        api,  # type: ignore[arg-type]
        known.pods,
        known.adapters,
        secrets,
        watch,
        orders,
        labels,
        services,
        statuses,
        lambda: datetime.now(UTC),
        clock,
    )
    queue = WorkQueue("adapters")
    known.adapters.add_event_handler(lambda namespace, *_: queue.add((namespace,)))
    known.pods.add_event_handler(lambda namespace, *_: queue.add((namespace,)))
    tasks = [asyncio.create_task(coroutine) for coroutine in (*known.watches(), queue.run(reconciler.reconcile))]
    try:
        yield known, idle
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_edit_that_meets_a_status_write_is_ordered() -> None:
    async with operator(adapter("file:///v2", 6, 2)) as (known, idle):

        def status() -> Mapping[str, Any]:
            cached = known.adapters.get("sql", "team")
            return {} if cached is None else cached.status.rest

        await until("the new weights are ordered", lambda: "Load" in idle.ordered)
        await until("the status is of the edit", lambda: status().get("observedGeneration") == 2)


async def test_deletion_that_meets_a_status_write_is_unloaded() -> None:
    deletion = {"deletionTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    async with operator(adapter("file:///v1", 6, 2, metadata=deletion)) as (_, idle):
        # First the label goes, so that requests do.
        await until("it is taken away", lambda: {"SetServingLabels", "Unload"} & set(idle.ordered))

"""The source at an API server in memory: what changes publish, and what happens while the server is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from kubernetes.aio import client

from patio_api.endpoint_labels import GATEWAY_MANAGER
from patio_gateway.snapshot import Snapshot
from patio_gateway.sources.kubernetes import source
from patio_gateway.sources.kubernetes.options import NoClusterError
from patio_gateway.sources.kubernetes.source import KubernetesSource
from patio_kube.client import KubeClient
from patio_testing.model_objects import (
    LATER,
    adapters_path,
    endpoints_path,
    key_secret,
    lora_adapter,
    model_endpoint,
    pods_path,
    secrets_path,
    serving_adapters,
    worker_pod,
)
from patio_testing.operator.memory_api import MemoryApi, serving
from patio_testing.operator.waiting import until

KEY = "sk-0123456789"
ENTRY = f"- {{name: team-a, key: {KEY}}}\n"
SQL = lora_adapter("sql")


@dataclass
class Published:
    """The snapshots that a source published."""

    snapshots: list[Snapshot] = field(default_factory=list)

    async def publish(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    async def shows(self, what: str, expected: Callable[[Snapshot], object]) -> None:
        """Wait until the last snapshot is as expected."""
        await until(what, lambda: self.snapshots and expected(self.snapshots[-1]), lambda: self.snapshots[-1:])


def connected(address: str) -> KubeClient:
    return KubeClient(client.ApiClient(client.Configuration(host=address)), GATEWAY_MANAGER)


@asynccontextmanager
async def running(
    address: str, namespaces: tuple[str, ...] = (), keys_namespace: str | None = None
) -> AsyncIterator[Published]:
    published = Published()
    reader, writer = connected(address), connected(address)
    task = asyncio.create_task(KubernetesSource(reader, writer, namespaces, keys_namespace).run(published.publish))
    try:
        yield published
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await reader.close()
        await writer.close()


async def test_models_workers_and_adapters_come_and_go() -> None:
    api = MemoryApi()
    api.put(endpoints_path(), model_endpoint(adapters=serving_adapters()))
    api.put(adapters_path(), SQL)
    async with serving(api) as address, running(address) as published:
        await published.shows("the model", lambda found: found.models)
        assert published.snapshots[0].models[0].adapters == ("sql",)
        assert not published.snapshots[0].closed
        api.put(pods_path(), worker_pod("m-0"))
        await published.shows("its worker", lambda found: found.models[0].workers)
        assert published.snapshots[-1].models[0].workers[0].adapters == frozenset()
        api.put(pods_path(), worker_pod("m-0", loaded=[SQL]))
        await published.shows("its adapter", lambda found: found.models[0].workers[0].adapters == {"sql"})
        api.put(pods_path(), worker_pod("m-0", loaded=[SQL], deletionTimestamp=LATER))
        await published.shows("it drains", lambda found: not found.models[0].workers)
        api.remove(f"{adapters_path()}/sql")
        await published.shows("no adapter", lambda found: not found.models[0].adapters)
        api.remove(f"{endpoints_path()}/m")
        await published.shows("no model", lambda found: not found.models)


async def test_nothing_is_published_before_everything_was_listed() -> None:
    api = MemoryApi()
    api.put(endpoints_path(), model_endpoint())
    api.put(pods_path(), worker_pod())
    api.refused = {"/api/v1/pods": 503}
    async with serving(api) as address, running(address) as published:
        await until("pods were asked for", lambda: api.requests["GET pods"] > 1)
        assert published.snapshots == []
        api.refused = {}
        await published.shows("the model", lambda found: found.models)
        assert len(published.snapshots[0].models[0].workers) == 1


async def test_log_says_which_informer_is_late(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "LATE_SECONDS", 0.0)
    api = MemoryApi()
    api.refused = {"/apis/patio.dev/v1alpha1/loraadapters": 403}
    async with serving(api) as address, running(address):
        await until("it is said", lambda: "informer_late kind=LoraAdapter" in caplog.text)


async def test_object_that_cannot_be_read_stops_no_neighbour() -> None:
    api = MemoryApi()
    api.put(endpoints_path(), model_endpoint("bad", queue={"timeout": "soon"}))
    api.put(endpoints_path(), model_endpoint("good", adapters=serving_adapters()))
    api.put(adapters_path(), lora_adapter("bad", source={}))
    api.put(adapters_path(), SQL)
    api.put(pods_path(), worker_pod("bad", ip="nonsense", endpoint="good"))
    api.put(pods_path(), worker_pod("good", endpoint="good", loaded=[SQL]))
    async with serving(api) as address, running(address) as published:
        await published.shows("the good ones", lambda found: found.models)
        (model,) = published.snapshots[-1].models
        assert (model.names, model.adapters) == (("good",), ("sql",))
        assert [worker.name for worker in model.workers] == ["good"]

        def event() -> bool:
            events = [body for path, body in api.objects.items() if "/events/" in path]
            return any(body["message"].startswith("The gateway cannot read this object") for body in events)

        await until("its owner is told", event)


async def test_name_that_another_one_has_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    api = MemoryApi()
    api.put(endpoints_path(), model_endpoint("old", model={"uri": "a/b", "name": "chat"}))
    api.put(endpoints_path(), model_endpoint("young", created=LATER, model={"uri": "a/b", "name": "chat"}))
    async with serving(api) as address, running(address) as published:
        await published.shows("the older one", lambda found: [each.endpoint for each in found.models] == ["team/old"])
        await until("an event", lambda: any(body.get("reason") == "NameTaken" for body in list(api.objects.values())))
        api.put(pods_path(), worker_pod("old-0", endpoint="old"))
        await published.shows("its worker", lambda found: found.models[0].workers)
        assert caplog.text.count("name_taken") == 1
        api.remove(f"{endpoints_path()}/old")
        await published.shows("the other one", lambda found: [each.endpoint for each in found.models] == ["team/young"])


async def test_only_the_chosen_namespaces_are_served() -> None:
    api = MemoryApi()
    for namespace in ("a", "b", "c"):
        api.put(endpoints_path(namespace), model_endpoint(f"m-{namespace}", namespace=namespace))
    async with serving(api) as address, running(address, ("a", "b")) as published:
        await published.shows("both", lambda found: [model.endpoint for model in found.models] == ["a/m-a", "b/m-b"])


async def test_namespace_without_rights_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    api = MemoryApi()
    api.put(endpoints_path("a"), model_endpoint(namespace="a"))
    api.refused = {endpoints_path("b"): 403}
    async with serving(api) as address, running(address, ("a", "b")) as published:
        await published.shows("the other one", lambda found: [each.endpoint for each in found.models] == ["a/m"])


async def test_keys_come_from_secrets_of_the_own_namespace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api = MemoryApi()
    api.put(secrets_path("team"), key_secret("forged", "- {name: evil, key: sk-evil-0123456789}", namespace="team"))
    async with serving(api) as address, running(address, keys_namespace="patio-system") as published:
        await published.shows("no key", lambda found: found.closed and not found.clients)
        api.put(secrets_path(), key_secret("keys", ENTRY))
        await published.shows("a key", lambda found: [client.name for client in found.clients] == ["team-a"])
        api.put(secrets_path(), key_secret("keys", f"- {{name: team-a, key: '{KEY} and more'}}"))
        await until("a fault is said", lambda: "keys_left_out" in caplog.text)
        assert [client.name for client in published.snapshots[-1].clients] == ["team-a"]
        api.remove(f"{secrets_path()}/keys")
        await published.shows("no key", lambda found: not found.clients)
    assert KEY not in caplog.text
    assert not any("evil" in repr(snapshot) for snapshot in published.snapshots)


async def test_what_is_known_stays_while_the_api_server_is_away() -> None:
    api = MemoryApi()
    api.put(endpoints_path(), model_endpoint())
    api.put(pods_path(), worker_pod())
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with running(f"http://127.0.0.1:{port}") as published:
        await published.shows("the worker", lambda found: found.models and found.models[0].workers)
        count = len(published.snapshots)
        api.end()
        await runner.cleanup()
        api.put(pods_path(), worker_pod("m-1", ip="10.0.0.2"))
        again = web.Application()
        again.router.add_route("*", "/{path:.*}", api.answer)
        runner = web.AppRunner(again)
        await runner.setup()
        # Nothing was published between: the next snapshot is the first with both.
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await published.shows("both workers", lambda found: len(found.models[0].workers) == 2)
        assert len(published.snapshots) == count + 1
        api.end()
    await runner.cleanup()


async def test_missing_cluster_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NoClusterError, match="neither a service account nor a usable kubeconfig"):
        async with source.connected((), None):
            pass

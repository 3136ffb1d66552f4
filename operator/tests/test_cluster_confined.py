"""An operator of some namespaces: what it reads of all is what there is in these, and nothing else is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from kubernetes.aio import client

from patio_operator.cluster.api import ApiError, Cluster, Object, Scope
from patio_operator.cluster.confined import ConfinedCluster
from patio_operator.cluster.kinds import LORA_ADAPTER, PROFILE
from patio_operator.cluster.watched import Watched

DEADLINE = 60.0


def adapter(namespace: str, name: str, version: int) -> Object:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata}


class ApiServer:
    """Knows two namespaces and the kinds of the cluster; forbids everything else, as roles in namespaces do."""

    def __init__(self) -> None:
        self.items: dict[str, list[Object]] = {"a": [adapter("a", "one", 5)], "b": [adapter("b", "two", 7)]}
        self.watched_from: list[tuple[str, str]] = []
        self.events: dict[str, asyncio.Queue[Object | None]] = {name: asyncio.Queue() for name in self.items}
        self.lists = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.split("/")
        if "clusterengineruntimeprofiles" in parts:
            return web.json_response({"items": [{"metadata": {"name": "patio"}}], "metadata": {"resourceVersion": "9"}})
        namespace = parts[parts.index("namespaces") + 1] if "namespaces" in parts else ""
        if namespace not in self.items:
            return web.json_response({"message": f"forbidden: {request.path}"}, status=403)
        if "watch" not in request.query:
            self.lists += 1
            version = max(int(one["metadata"]["resourceVersion"]) for one in self.items[namespace])
            return web.json_response({"items": self.items[namespace], "metadata": {"resourceVersion": str(version)}})
        self.watched_from.append((namespace, request.query["resourceVersion"]))
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self.events[namespace].get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    def tell(self, type_: str, body: Object) -> None:
        self.events[body["metadata"]["namespace"]].put_nowait({"type": type_, "object": body})


@pytest.fixture
def api() -> ApiServer:
    return ApiServer()


@pytest.fixture
async def cluster(api: ApiServer) -> AsyncIterator[ConfinedCluster]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    confined = ConfinedCluster(client.ApiClient(configuration))
    confined.namespaces = ("a", "b")
    yield confined
    await confined.close()
    await runner.cleanup()


def names(bodies: list[Object]) -> list[str]:
    return sorted(one["metadata"]["name"] for one in bodies)


async def test_all_is_what_there_is_in_the_namespaces(cluster: ConfinedCluster) -> None:
    assert names(await cluster.list_all(LORA_ADAPTER)) == ["one", "two"]
    assert names(await cluster.list_all(LORA_ADAPTER, "b")) == ["two"]
    assert names(await cluster.list_all(PROFILE)) == ["patio"]
    with pytest.raises(ApiError, match="forbidden"):
        await cluster.list_all(LORA_ADAPTER, "c")


async def test_an_unconfined_read_of_all_is_forbidden_there(cluster: ConfinedCluster) -> None:
    unconfined = Cluster(cluster._client)
    with pytest.raises(ApiError, match="forbidden"):
        await unconfined.list_all(LORA_ADAPTER)


async def test_a_watch_of_all_goes_on_in_each_namespace_where_it_was(api: ApiServer, cluster: ConfinedCluster) -> None:
    watched = Watched(cluster, LORA_ADAPTER, lambda body: body["metadata"]["resourceVersion"])
    task = asyncio.create_task(watched.run())
    try:
        await until(lambda: len(api.watched_from) == 2)
        assert sorted(api.watched_from) == [("a", "5"), ("b", "7")]
        assert watched.namespaces() == ["a", "b"]
        api.tell("MODIFIED", adapter("a", "one", 20))
        await until(lambda: watched.get("one", "a") == "20")
        api.tell("ADDED", adapter("b", "three", 12))
        await until(lambda: watched.get("three", "b") == "12")
        api.watched_from.clear()
        api.events["a"].put_nowait(None)
        await until(lambda: len(api.watched_from) == 2)
        assert sorted(api.watched_from) == [("a", "20"), ("b", "12")]
        assert api.lists == 2, "nothing was listed again"
        assert watched.fresh
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_watch_before_any_list_begins_with_one(cluster: ConfinedCluster) -> None:
    events = [event async for event in cluster.watch(LORA_ADAPTER, "5", Scope(labels="never-listed"))]
    assert [event["object"]["code"] for event in events] == [410]


async def until(condition: object) -> None:
    """Wait for a condition."""
    assert callable(condition)
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)

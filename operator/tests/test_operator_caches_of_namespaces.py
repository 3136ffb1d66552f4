"""An operator of some namespaces: it watches each by itself, and nothing that becomes of one disturbs another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from kubernetes.aio import client

from patio_kube import reflector
from patio_kube.client import ApiError, KubeClient, Object
from patio_kube.informer import Informer
from patio_kube.resources import LORA_ADAPTER, PROFILE
from patio_operator.caches import Caches
from patio_testing.deadline import DEADLINE
from patio_testing.operator.waiting import until


def adapter(namespace: str, name: str, version: int) -> Object:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata}


class ApiServer:
    """Knows two namespaces and the kinds of the cluster; forbids everything else, as roles in namespaces do."""

    def __init__(self) -> None:
        self.items: dict[str, list[Object]] = {"a": [adapter("a", "one", 5)], "b": [adapter("b", "two", 7)]}
        self.refused: dict[str, int] = {}
        self.watched_from: list[tuple[str, str]] = []
        self.events: dict[str, asyncio.Queue[Object | None]] = {name: asyncio.Queue() for name in self.items}
        self.lists: list[str] = []
        self.listed: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.split("/")
        if "clusterengineruntimeprofiles" in parts:
            return web.json_response({"items": [], "metadata": {"resourceVersion": "9"}})
        namespace = parts[parts.index("namespaces") + 1] if "namespaces" in parts else ""
        self.listed.append(namespace)
        if namespace not in self.items or namespace in self.refused:
            return web.json_response({"message": f"refused: {request.path}"}, status=self.refused.get(namespace, 403))
        if "watch" not in request.query:
            self.lists.append(namespace)
            version = max(int(item["metadata"]["resourceVersion"]) for item in self.items[namespace])
            return web.json_response({"items": self.items[namespace], "metadata": {"resourceVersion": str(version)}})
        self.watched_from.append((namespace, request.query["resourceVersion"]))
        response = web.StreamResponse()
        await response.prepare(request)
        while (event := await self.events[namespace].get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    def send_event(self, type_: str, body: Object) -> None:
        self.events[body["metadata"]["namespace"]].put_nowait({"type": type_, "object": body})

    def refuse(self, namespace: str, status: int) -> None:
        """End the watch of a namespace, and refuse to list or watch it from now on."""
        self.refused[namespace] = status
        self.events[namespace].put_nowait(None)


@pytest.fixture
def api() -> ApiServer:
    return ApiServer()


@pytest.fixture
async def cluster(api: ApiServer) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    cluster = KubeClient(client.ApiClient(configuration), "patio-operator")
    yield cluster
    await cluster.close()
    await runner.cleanup()


@pytest.fixture
async def watched(cluster: KubeClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Informer[str]]:
    """A watch of both namespaces."""
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 0.01)
    informer: Informer[str] = Informer(
        cluster, LORA_ADAPTER, lambda body: body["metadata"]["resourceVersion"], namespaces=("a", "b")
    )
    task = asyncio.create_task(informer.run())
    await until(
        "all are synced", lambda: informer.synced and all(informer.synced_in(namespace) for namespace in ("a", "b"))
    )
    yield informer
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_only_watched_namespaces_have_to_be_fresh(cluster: KubeClient) -> None:
    known = Caches(cluster, namespaces=("a", "b"))
    assert known.pods.synced_in("c"), "nothing is of a namespace that is not watched"
    assert not known.pods.synced_in("a")


async def test_all_is_what_there_is_in_the_namespaces(watched: Informer[str], cluster: KubeClient) -> None:
    assert watched.object_keys() == [("a", "one"), ("b", "two")]
    assert watched.all("b") == ["7"]
    assert watched.all("c") == []
    with pytest.raises(ApiError, match="refused"):
        await cluster.list_all(LORA_ADAPTER, "c")


async def test_unconfined_read_of_all_is_forbidden_there(cluster: KubeClient) -> None:
    with pytest.raises(ApiError, match="refused"):
        await cluster.list_all(LORA_ADAPTER)


async def test_what_is_of_no_namespace_is_watched_as_always(cluster: KubeClient) -> None:
    assert await cluster.list_all(PROFILE) == []
    profiles = Informer(cluster, PROFILE, lambda body: body["metadata"]["name"], namespaces=("a", "b"))
    task = asyncio.create_task(profiles.run())
    await until("profiles are synced", lambda: profiles.synced)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_watch_goes_on_where_it_was_and_disturbs_no_other(api: ApiServer, watched: Informer[str]) -> None:
    await until("both are watched", lambda: len(api.watched_from) == 2)
    assert sorted(api.watched_from) == [("a", "5"), ("b", "7")]
    assert watched.namespaces() == ["a", "b"]
    api.send_event("MODIFIED", adapter("a", "one", 20))
    await until("the change is taken in", lambda: watched.get("one", "a") == "20")
    api.send_event("ADDED", adapter("b", "three", 12))
    await until("the other namespace goes on", lambda: watched.get("three", "b") == "12")
    api.watched_from.clear()
    api.events["a"].put_nowait(None)
    await until("it is watched", lambda: len(api.watched_from) == 1)
    assert api.watched_from == [("a", "20")]
    assert sorted(api.lists) == ["a", "b"], "nothing was listed again"
    assert watched.synced


@pytest.mark.parametrize("status", [403, 404])
async def test_rejected_namespace_is_kept_and_stops_no_other(
    status: int, api: ApiServer, watched: Informer[str], caplog: pytest.LogCaptureFixture
) -> None:
    await until("both are watched", lambda: len(api.watched_from) == 2)
    api.refuse("a", status)
    await until("a is lost", lambda: not watched.synced_in("a"))
    lists = api.listed.count("a")
    await until("a is asked again", lambda: api.listed.count("a") >= lists + 3)
    assert watched.all("a") == ["5"], "what was known is kept"
    assert "refused" in watched.problem_in("a")
    assert watched.forbidden_in("a") == (status == 403)
    assert watched.synced, "profiles, which are of all namespaces, are not held up"
    assert watched.synced_in("b")
    api.send_event("ADDED", adapter("b", "three", 12))
    await until("the other namespace goes on", lambda: watched.get("three", "b") == "12")
    assert [watch for watch in api.watched_from if watch[0] == "b"] == [("b", "7")], "the neighbour's watch went on"
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 1, lines
    assert "loraadapters in namespace a lost" in lines[0]


async def test_namespace_that_is_back_recovers_by_itself(api: ApiServer, watched: Informer[str]) -> None:
    changes: list[tuple[str, str | None, str | None]] = []
    watched.add_event_handler(lambda *change: changes.append(change))
    await until("both are watched", lambda: len(api.watched_from) == 2)
    api.refuse("a", 403)
    await until("a is lost", lambda: not watched.synced_in("a"))
    api.items["a"] = [adapter("a", "other", 30)]
    del api.refused["a"]
    await until("a is back", lambda: watched.synced_in("a"))
    assert watched.object_keys() == [("a", "other"), ("b", "two")]
    assert sorted(changes, key=str) == [("a", "5", None), ("a", None, "30")]
    await until("a is watched from where it was", lambda: ("a", "30") in api.watched_from)


async def test_new_leader_does_not_wait_for_a_rejected_namespace(api: ApiServer, watched: Informer[str]) -> None:
    await until("both are watched", lambda: len(api.watched_from) == 2)
    api.refuse("a", 403)
    await until("a is lost", lambda: not watched.synced_in("a"))
    api.items["b"] = [adapter("b", "two", 40)]
    async with asyncio.timeout(DEADLINE):
        await watched.relist()
    assert watched.all("b") == ["40"]
    assert not watched.synced_in("a")

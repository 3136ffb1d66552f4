"""Watches of our own: what they know, that they go on after every way a watch can end, and that they say when not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from kubernetes.aio import client

from patio_kube import reflector
from patio_kube.client import KubeClient, Object, RetryableApiError, Scope
from patio_kube.informer import Informer
from patio_kube.resources import LORA_ADAPTER
from patio_testing.deadline import DEADLINE
from patio_testing.operator.waiting import eventually


def adapter(name: str, version: int) -> Object:
    metadata = {"name": name, "namespace": "team", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata}


VERSION = {"resourceVersion": "1"}


def named(body: Object) -> str:
    if body["metadata"]["name"].startswith("bad") or "bad" in body:
        raise RecursionError("bad")
    return f"{body['metadata']['name']}@{body['metadata']['resourceVersion']}"


class ApiServer:
    """Lists what it is told to, and watches until it is told to end them."""

    def __init__(self) -> None:
        self.items: list[Object] = []
        self.version = 1
        self.page = 2
        self.lists = 0
        self.watched_from: list[str] = []
        self.refuses = False
        self.raw = ""
        self.ends = ""
        self.holds: asyncio.Event | None = None
        self.held = 0
        self._events: asyncio.Queue[str | None] = asyncio.Queue()

    def send_event(self, type_: str, body: Object) -> None:
        self.send_line(json.dumps({"type": type_, "object": body}))

    def send_line(self, line: str) -> None:
        self._events.put_nowait(line)

    def end_the_watch(self) -> None:
        self._events.put_nowait(None)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.refuses:
            return web.json_response({"message": "not now"}, status=503)
        assert request.query["labelSelector"] == "app"
        if "watch" not in request.query:
            self.lists += 1
            if self.raw:
                return web.Response(text=self.raw, content_type="application/json")
            if "continue" in request.query and self.holds is not None:
                self.held += 1
                await self.holds.wait()
            metadata = {"resourceVersion": str(self.version)}
            first = int(request.query.get("continue", 0))
            if first + self.page < len(self.items):
                metadata["continue"] = str(first + self.page)
            return web.json_response({"items": self.items[first : first + self.page], "metadata": metadata})
        if self.ends == "is refused":
            return web.json_response({"message": "too many"}, status=429)
        self.watched_from.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if self.ends:
            if "event" in self.ends:
                await response.write(json.dumps({"type": "ADDED", "object": adapter("a", 2)}).encode() + b"\n")
            if "gone" in self.ends:
                expired = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
                await response.write(json.dumps(expired).encode() + b"\n")
            return response
        while (line := await self._events.get()) is not None:
            await response.write(line.encode() + b"\n")
        return response


@asynccontextmanager
async def watching(api: ApiServer) -> AsyncIterator[tuple[KubeClient, Informer[str]]]:
    app = web.Application()
    app.router.add_get("/{path:.*}", api.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    cluster = KubeClient(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{port}")), "patio-operator")
    informer = Informer(cluster, LORA_ADAPTER, named, Scope(labels="app"))
    task = asyncio.create_task(informer.run())
    try:
        yield cluster, informer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.close()
        for _ in api.watched_from:
            api.end_the_watch()  # a handler that is left would hold the clean-up up
        await runner.cleanup()


async def test_cache_has_what_is_there_and_follows_its_changes() -> None:
    api = ApiServer()
    api.items = [adapter("a", 1)]
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.all("team"), ["a@1"])
        assert informer.synced
        api.send_event("ADDED", adapter("b", 2))
        api.send_event("MODIFIED", adapter("a", 3))
        await eventually("changed", lambda: sorted(informer.all("team")), ["a@3", "b@2"])
        api.send_event("DELETED", adapter("b", 4))
        await eventually("deleted", lambda: informer.get("b", "team"), None)
        assert informer.all("elsewhere") == []


async def test_many_are_read_some_at_a_time() -> None:
    api = ApiServer()
    api.items = [adapter(str(number), 1) for number in range(5)]
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: len(informer.all("team")), 5)
        assert api.lists == 3


async def test_handlers_are_called_for_changes_only() -> None:
    changes: list[tuple[str, str | None, str | None]] = []
    api = ApiServer()
    api.items = [adapter("a", 1)]
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.synced, True)
        informer.add_event_handler(lambda *change: changes.append(change))
        api.send_event("MODIFIED", adapter("a", 1))
        api.send_event("MODIFIED", adapter("a", 3))
        api.send_event("DELETED", adapter("a", 4))
        await eventually("gone", lambda: informer.namespaces(), [])
        assert changes == [("team", "a@1", "a@3"), ("team", "a@3", None)]


async def test_answer_to_a_write_counts_before_and_over_older_events() -> None:
    """An answer to a write counts before the watch has it, and an older event of the watch does not undo it."""
    observed: list[str | None] = []
    api = ApiServer()
    api.items = [adapter("a", 1)]
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.synced, True)
        informer.add_event_handler(lambda _, __, current: observed.append(current))
        informer.observe_write(adapter("a", 5))
        informer.observe_write(adapter("unknown", 6))
        assert informer.all("team") == ["a@5"]
        api.send_event("MODIFIED", adapter("a", 4))
        api.send_event("MODIFIED", adapter("a", 5))
        api.send_event("MODIFIED", adapter("a", 7))
        await eventually("the later one", lambda: informer.all("team"), ["a@7"])
        assert observed == ["a@5", "a@7"]


async def test_refresh_lists_everything_and_the_watch_goes_on_after_it() -> None:
    api = ApiServer()
    api.items = [adapter("a", 1), adapter("b", 1)]
    async with watching(api) as (_, informer):
        await eventually("watched", lambda: api.watched_from, ["1"])
        api.items, api.version = [adapter("a", 8)], 9
        await informer.relist()
        assert informer.all("team") == ["a@8"]
        await eventually("watched from there", lambda: api.watched_from, ["1", "9"])
        # The handler of the first watch still waits, and takes the first event.
        api.send_event("BOOKMARK", adapter("nobody", 9))
        api.send_event("ADDED", adapter("c", 10))
        await eventually("caught up", lambda: sorted(informer.all("team")), ["a@8", "c@10"])


async def test_refresh_waits_for_an_api_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 0.01)
    api = ApiServer()
    async with watching(api) as (_, informer):
        await eventually("watched", lambda: api.watched_from, ["1"])
        api.refuses = True
        waiting = asyncio.create_task(informer.relist())
        await eventually("lost", lambda: informer.synced, False)
        assert not waiting.done()
        api.items, api.version, api.refuses = [adapter("a", 8)], 9, False
        async with asyncio.timeout(DEADLINE):
            await waiting
        assert informer.all("team") == ["a@8"]


async def test_object_larger_than_a_network_buffer_arrives() -> None:
    api = ApiServer()
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.synced, True)
        api.send_event("ADDED", adapter("a", 2) | {"status": {"message": "x" * 1_000_000}})
        await eventually("there", lambda: informer.all("team"), ["a@2"])


async def test_watch_that_ends_goes_on_where_it_was() -> None:
    api = ApiServer()
    async with watching(api) as (_, informer):
        await eventually("the first watch", lambda: api.watched_from, ["1"])
        api.send_event("BOOKMARK", {"metadata": {"resourceVersion": "7"}})
        api.end_the_watch()
        await eventually("the second", lambda: api.watched_from, ["1", "7"])
        assert (api.lists, informer.synced) == (1, True)


async def test_expired_version_is_followed_by_a_new_list() -> None:
    api = ApiServer()
    api.items = [adapter("a", 1)]
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.all("team"), ["a@1"])
        api.items, api.version = [adapter("b", 9)], 9
        api.send_event("ERROR", {"code": 410, "message": "too old resource version"})
        await eventually("listed anew", lambda: informer.all("team"), ["b@9"])
        await eventually("watched from there", lambda: api.watched_from, ["1", "9"])


async def test_while_it_is_lost_it_says_so_and_it_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 0.01)
    api = ApiServer()
    lost: list[str] = []
    async with watching(api) as (_, informer):
        informer.on_lost = lambda resource: lost.append(resource.plural)
        await eventually("there", lambda: informer.synced, True)
        assert not lost
        api.refuses = True
        api.end_the_watch()
        await eventually("lost", lambda: informer.synced, False)
        api.items, api.refuses = [adapter("a", 2)], False
        await eventually("back", lambda: (informer.synced, informer.all("team")), (True, ["a@2"]))
        assert set(lost) == {"loraadapters"}


async def test_object_that_cannot_be_decoded_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    names: list[str] = []
    api = ApiServer()
    api.items = [adapter("bad", 1), adapter("a", 1)]
    async with watching(api) as (_, informer):
        informer.on_unreadable = lambda kind, body, problem: names.append(
            f"{kind.kind} {body['metadata']['name']}: {problem}"
        )
        await eventually("listed", lambda: informer.all("team"), ["a@1"])
        api.send_event("ADDED", adapter("bad", 2))
        api.send_event("ADDED", adapter("b", 3))
        await eventually("watched", lambda: sorted(informer.all("team")), ["a@1", "b@3"])
        assert informer.synced
    assert names == ["LoraAdapter bad: RecursionError: bad"] * 2
    assert "LoraAdapter team/bad ignored: it cannot be read" in caplog.text


async def test_object_that_becomes_bad_leaves_the_cache() -> None:
    observed: list[object] = []
    api = ApiServer()
    api.items = [adapter("a", 1)]
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.all("team"), ["a@1"])
        informer.add_event_handler(lambda *change: observed.append(change))
        api.send_event("MODIFIED", adapter("a", 2) | {"bad": True})
        await eventually("left out", lambda: informer.all("team"), [])
        api.send_event("MODIFIED", adapter("a", 3))
        await eventually("back", lambda: informer.all("team"), ["a@3"])
    assert observed == [("team", "a@1", None), ("team", None, "a@3")]


async def test_object_nested_too_deeply_is_left_out() -> None:
    api = ApiServer()
    deep = '"spec": ' + "[" * 5000 + "]" * 5000
    api.raw = json.dumps({"items": [adapter("a", 1), adapter("deep", 1) | {"spec": "DEEP"}], "metadata": VERSION})
    api.raw = api.raw.replace('"spec": "DEEP"', deep)
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.all("team"), ["a@1"])
        api.send_line(
            json.dumps({"type": "ADDED", "object": adapter("b", 2) | {"spec": "DEEP"}}).replace('"spec": "DEEP"', deep)
        )
        api.send_event("ADDED", adapter("c", 3))
        await eventually("watched", lambda: sorted(informer.all("team")), ["a@1", "c@3"])


async def test_bad_objects_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    api = ApiServer()
    api.page = 1000
    api.items = [adapter(f"bad-{number}", 1) | {"bad": True} for number in range(200)]
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.synced, True)
    assert caplog.text.count("ignored: it") == reflector.COMPLAINTS


async def test_listener_that_breaks_is_no_others_trouble() -> None:
    observed: list[object] = []

    def breaks(*_: object) -> None:
        raise RuntimeError("broken")

    api = ApiServer()
    async with watching(api) as (_, informer):
        informer.add_event_handler(breaks)
        informer.add_event_handler(lambda _, __, current: observed.append(current))
        await eventually("listed", lambda: informer.synced, True)
        api.send_event("ADDED", adapter("a", 2))
        await eventually("told", lambda: observed, ["a@2"])


async def test_what_is_no_event_loses_the_watch_and_not_the_process() -> None:
    api = ApiServer()
    async with watching(api) as (_, informer):
        await eventually("watched", lambda: len(api.watched_from), 1)
        api.send_line("no JSON")
        await eventually("watched again", lambda: len(api.watched_from), 2)
        assert informer.synced


async def test_answer_with_another_writers_change_calls_handlers() -> None:
    changes: list[object] = []
    api = ApiServer()
    api.items = [adapter("a", 1)]
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.synced, True)
        informer.add_event_handler(lambda _, previous, current: changes.append((previous, current)))
        informer.observe_write(
            adapter("a", 7)
        )  # it has a change by somebody else, version 6, which the watch has not told yet
        assert changes == [("a@1", "a@7")]
        api.send_event("MODIFIED", adapter("a", 6))
        api.send_event("ADDED", adapter("b", 8))
        await eventually("the watch went on", lambda: informer.get("b", "team"), "b@8")
        assert informer.get("a", "team") == "a@7"


async def test_answer_during_a_listing_outlives_it() -> None:
    api = ApiServer()
    api.page, api.items = 1, [adapter("a", 1), adapter("b", 1)]
    async with watching(api) as (_, informer):
        await eventually("listed", lambda: informer.synced, True)
        api.holds = asyncio.Event()
        waiting = asyncio.create_task(informer.relist())
        await eventually("the second page is asked for", lambda: api.held, 1)
        informer.observe_write(adapter("a", 5))
        api.holds.set()
        async with asyncio.timeout(DEADLINE):
            await waiting
        assert sorted(informer.all("team")) == ["a@5", "b@1"]


async def test_refresh_does_not_wait_out_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 1000.0)
    api = ApiServer()
    async with watching(api) as (_, informer):
        await eventually("watched", lambda: api.watched_from, ["1"])
        api.refuses = True
        api.send_event("ERROR", {"code": 500, "message": "broken"})
        await eventually("lost", lambda: informer.synced, False)
        api.items, api.version, api.refuses = [adapter("a", 8)], 9, False
        async with asyncio.timeout(DEADLINE):
            await informer.relist()
        assert informer.all("team") == ["a@8"]


async def test_new_leader_wakes_a_watch_that_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 1000.0)
    api = ApiServer()
    api.refuses = True
    async with watching(api) as (_, informer):
        await eventually("it rests", lambda: informer.problem_in("team"), "not now")
        api.refuses = False
        informer.retry_now()
        await eventually("it is there", lambda: informer.synced, True)
        informer.retry_now()
        assert informer.synced


async def test_refresh_does_not_wait_for_an_older_listing() -> None:
    api = ApiServer()
    api.page, api.items, api.holds = 1, [adapter("a", 1), adapter("b", 1)], asyncio.Event()
    async with watching(api) as (_, informer):
        await eventually("the second page is asked for", lambda: api.held, 1)
        held, api.holds = api.holds, None
        async with asyncio.timeout(DEADLINE):
            await informer.relist()
        assert sorted(informer.all("team")) == ["a@1", "b@1"]
        held.set()


@pytest.mark.parametrize("ending", ["ends", "is gone", "is refused", "ends after an event, gone"])
async def test_watch_that_ends_at_once_backs_off(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(_: reflector.Reflector[str], seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(reflector.Reflector, "_sleep", sleep)
    api = ApiServer()
    api.ends = ending
    async with watching(api):
        await eventually("tried often", lambda: len(pauses) >= 8, True)
    assert pauses[:8] != sorted(pauses[:8])[::-1]
    assert max(pauses[:8]) > 20, pauses
    assert all(0.8 * 2**n <= pause <= 1.3 * 30.0 for n, pause in enumerate(pauses[:5])), pauses


async def test_many_objects_are_decoded_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(reflector, "SLICE_SECONDS", 0.0)
    api = ApiServer()
    api.page, api.items = 1000, [adapter(str(number), 1) for number in range(500)]
    async with watching(api) as (_, informer):
        neighbour = asyncio.create_task(others())
        await eventually("listed", lambda: len(informer.all("team")), 500)
        neighbour.cancel()
    assert turns > 500


async def test_unreachable_api_server_is_a_lost_watch_like_any_other() -> None:
    cluster = KubeClient(client.ApiClient(client.Configuration(host="http://127.0.0.1:9")), "patio-operator")
    try:
        with pytest.raises(RetryableApiError):
            async for _ in cluster.watch(LORA_ADAPTER, "1"):
                pass
    finally:
        await cluster.close()

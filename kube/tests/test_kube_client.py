"""The client of the API server: answers that are too large or no answers, clocks that differ, our own limits."""

from __future__ import annotations

import asyncio
import errno
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client

from patio_kube import client as cluster_api
from patio_kube.client import InvalidError, KubeClient, RetryableApiError, TooLargeError, UnreadableError
from patio_kube.resources import POD, ROLE_BASED_GROUP
from patio_kube.runtime.open_file_limit import connection_error, is_out_of_files, raise_file_limit

NESTED = "[" * 5000 + "]" * 5000


@asynccontextmanager
async def answering(answer: Callable[[web.Request], web.StreamResponse]) -> AsyncIterator[KubeClient]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    cluster = KubeClient(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{port}")), "patio-operator")
    try:
        yield cluster
    finally:
        await cluster.close()
        await runner.cleanup()


def raw(text: str) -> Callable[[web.Request], web.StreamResponse]:
    return lambda _: web.Response(text=text, content_type="application/json")


async def test_fewer_objects_are_asked_for_where_a_page_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_api, "MOST_BYTES", 10_000)
    limits: list[int] = []

    def answer(request: web.Request) -> web.StreamResponse:
        limit, first = int(request.query["limit"]), int(request.query.get("continue", 0))
        limits.append(limit)
        items = [{"metadata": {"name": str(n)}, "spec": "x" * 4000} for n in range(20)][first : first + limit]
        more = {"continue": str(first + limit)} if first + limit < 20 else {}
        return web.json_response({"items": items, "metadata": {"resourceVersion": "5"} | more})

    async with answering(answer) as cluster:
        found = await cluster.list_all(POD)
        assert [group["metadata"]["name"] for group in found] == [str(n) for n in range(20)]
    assert (limits[0], min(limits)) == (cluster_api.PAGE, 1)


async def test_each_request_is_observed_with_its_verb_and_status(unreachable: KubeClient) -> None:
    seen: list[tuple[str, int]] = []

    def observe(verb: str, status: int, seconds: float) -> None:
        assert seconds > 0
        seen.append((verb, status))

    def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "DELETE":
            return web.json_response({"message": "no"}, status=403)
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})

    async with answering(answer) as cluster:
        cluster.observe = observe
        await cluster.get(POD, "p", "team")
        await cluster.list_all(POD)
        await cluster.create(POD, {}, "team")
        await cluster.merge(POD, "p", "team", {})
        await cluster.apply(POD, {"metadata": {"name": "p", "namespace": "team"}})
        with pytest.raises(InvalidError):
            await cluster.delete(POD, "p", "team")
        async for _ in cluster.watch(POD, "1"):
            pass
    assert seen == [
        ("get", 200), ("list", 200), ("create", 200), ("patch", 200), ("apply", 200), ("delete", 403), ("watch", 200)
    ]  # fmt: skip
    seen.clear()
    unreachable.observe = observe
    with pytest.raises(RetryableApiError):
        await unreachable.get(POD, "p", "team")
    with pytest.raises(RetryableApiError):
        await anext(unreachable.watch(POD, "1"))
    assert seen == [("get", 0), ("watch", 0)]


async def test_answer_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_api, "MOST_BYTES", 10_000)
    async with answering(raw(json.dumps({"x": "y" * 10_000}))) as cluster:
        with pytest.raises(TooLargeError):
            await cluster.get(POD, "p", "team")
        with pytest.raises(TooLargeError):
            await cluster.list_all(POD)


async def test_list_has_only_so_many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_api, "MOST_OBJECTS", 3)
    items = [{"metadata": {"name": str(n)}} for n in range(4)]
    async with answering(raw(json.dumps({"items": items, "metadata": {}}))) as cluster:
        with pytest.raises(TooLargeError):
            await cluster.list_all(POD)


async def test_object_nested_too_deeply_is_an_error_of_its_own() -> None:
    text = f'{{"metadata": {{"name": "x"}}, "spec": {NESTED}}}'
    async with answering(raw(text)) as cluster:
        with pytest.raises(UnreadableError, match="RoleBasedGroup x"):
            await cluster.get(ROLE_BASED_GROUP, "x", "team")
    async with answering(raw(f'{{"items": [{{"metadata": {{"name": "a"}}}}, {text}]}}')) as cluster:
        assert [group["metadata"]["name"] for group in await cluster.list_all(ROLE_BASED_GROUP)] == ["a"]


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "{", NESTED, '{"items": [1]}'])
async def test_answer_that_is_none_may_be_better_later(text: str) -> None:
    async with answering(raw(text)) as cluster:
        with pytest.raises(RetryableApiError):
            await cluster.list_all(POD)


@pytest.mark.parametrize("text", [NESTED, "nonsense", "[]", ""])
async def test_rejection_in_an_odd_form_is_an_error(text: str) -> None:
    async with answering(lambda _: web.Response(status=503, text=text)) as cluster:
        with pytest.raises(RetryableApiError):
            await cluster.get(POD, "p", "team")


async def test_rejection_that_repeats_megabytes_is_cut_short() -> None:
    causes = [{"field": "spec", "message": "x" * 10}] * 10_000
    text = json.dumps({"message": "Invalid value: " + "x" * 1_000_000, "details": {"causes": causes}})
    async with answering(lambda _: web.Response(status=422, text=text)) as cluster:
        with pytest.raises(InvalidError) as refused:
            await cluster.get(POD, "p", "team")
    assert len(refused.value.message) == cluster_api.LONGEST_MESSAGE
    assert len(refused.value.causes) == cluster_api.MOST_CAUSES


async def test_list_that_took_too_long_starts_again() -> None:
    requests = 0

    def answer(_: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if requests == 1:
            return web.json_response({"message": "expired"}, status=410)
        return web.json_response({"items": [{"metadata": {"name": "a"}}], "metadata": {}})

    async with answering(answer) as cluster:
        assert len(await cluster.list_all(POD)) == 1


async def test_event_without_an_end_breaks_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_api, "MOST_BYTES", 10_000)
    async with answering(raw("x" * 100_000)) as cluster:
        with pytest.raises(RetryableApiError, match="larger"):
            async for _ in cluster.watch(POD, "1"):
                pass


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(minutes=-10), timedelta(0)])
async def test_time_is_the_api_servers(ahead: timedelta) -> None:
    def answer(_: web.Request) -> web.StreamResponse:
        date = format_datetime(datetime.now(UTC) + ahead, usegmt=True)
        return web.json_response({"metadata": {}}, headers={"Date": date})

    async with answering(answer) as cluster:
        await cluster.get(POD, "p", "team")
        assert abs(cluster.now() - datetime.now(UTC) - ahead) < timedelta(seconds=30)


async def test_too_many_open_files_is_our_own_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def socket(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with answering(raw("{}")) as cluster:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "sock_connect", socket)
        with pytest.raises(RetryableApiError, match=re.compile("operator has too many open files.*RLIMIT_NOFILE")):
            await cluster.get(POD, "p", "team")


def test_errors_cause_is_looked_for() -> None:
    assert not is_out_of_files(OSError(errno.ECONNREFUSED, "refused"))
    assert not is_out_of_files(None)
    outer = RuntimeError("outer")
    outer.__cause__ = OSError(errno.ENFILE, "too many")
    assert is_out_of_files(outer)
    assert connection_error(TimeoutError()) == "TimeoutError"
    assert connection_error(OSError("refused")) == "refused"


def test_soft_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr("resource.getrlimit", lambda _: limits[-1])
    monkeypatch.setattr("resource.setrlimit", lambda _, limit: limits.append(limit))
    assert raise_file_limit() == 4096
    assert raise_file_limit() == 4096
    assert len(limits) == 2


def test_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not permitted")

    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr("resource.setrlimit", refuse)
    assert raise_file_limit() == 1024

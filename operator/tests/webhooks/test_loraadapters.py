"""Reviews of LoraAdapters where no API server can be asked: nobody is held up, and what need not be asked is not."""

from __future__ import annotations

import asyncio
from typing import Any

from patio_kube.client import KubeClient
from patio_operator.caches import Caches
from patio_operator.webhooks import loraadapters
from patio_testing.operator.lora_api_server import LoraApiServer
from patio_testing.operator.waiting import until

Object = dict[str, Any]


def adapter(app: str = "vllm", **metadata: Any) -> Object:
    return {
        "metadata": {"name": "sql", "namespace": "team"} | metadata,
        "spec": {"source": {"uri": "hf://org/sql"}, "selector": {"matchLabels": {"app": app}}},
    }


async def answer(cluster: KubeClient, new: Object, old: Object | None = None) -> Object:
    request = {"uid": "7", "namespace": "team", "object": new, "oldObject": old}
    review = {"apiVersion": "admission.k8s.io/v1", "request": request}
    rivals_of = loraadapters.Rivals(cluster, Caches(cluster))
    response: Object = (await loraadapters.answer(rivals_of, review)).review["response"]
    assert response["uid"] == "7"
    return response


async def test_what_cannot_be_compared_is_let_through_with_a_warning(unreachable: KubeClient) -> None:
    for old in (None, adapter("other")):
        response = await answer(unreachable, adapter(), old)
        assert response["allowed"]
        assert "could not compare" in response["warnings"][0]


async def test_only_what_changes_what_is_wanted_is_compared(unreachable: KubeClient) -> None:
    moved = adapter()
    moved["spec"]["source"] = {"uri": "s3://bucket/sql"}
    for new in (adapter(labels={"a": "b"}), moved, adapter("other", deletionTimestamp="2026-11-21T12:00:00Z")):
        assert await answer(unreachable, new, adapter()) == {"uid": "7", "allowed": True}


def in_clear(**source: Any) -> Object:
    body = adapter()
    body["spec"]["source"] = {"uri": "s3://bucket/sql", "endpoint": "http://minio", "secretRef": {"name": "k"}} | source
    return body


async def test_clear_credentials_are_rejected_at_creation_and_change(unreachable: KubeClient) -> None:
    for new, old in ((in_clear(), None), (in_clear(), adapter()), (in_clear(region="eu"), in_clear())):
        response = await answer(unreachable, new, old)
        assert not response["allowed"]
        assert "allowPlainHTTP: true" in response["status"]["message"]
        assert response["status"]["details"]["causes"][0]["field"] == "spec.source.endpoint"
    for body in (in_clear(allowPlainHTTP=True), in_clear(secretRef=None), in_clear(endpoint="http://127.0.0.1:9000")):
        assert (await answer(unreachable, body))["allowed"]


async def test_stored_credentials_in_clear_do_not_stop_other_changes(unreachable: KubeClient) -> None:
    labelled = in_clear()
    labelled["metadata"]["labels"] = {"a": "b"}
    assert (await answer(unreachable, labelled, in_clear()))["allowed"]


def rival(name: str, app: str, called: str | None = "sql") -> Object:
    body = adapter(app, name=name, uid=f"uid-{name}", creationTimestamp="2026-11-21T10:00:00Z")
    if called is not None:
        body["spec"]["adapterName"] = called
    return body


async def test_creation_reads_only_those_of_its_name() -> None:
    api = LoraApiServer()
    for number in range(300):
        body = rival(f"other-{number}", f"app-{number}", f"name-{number}")
        body["status"] = {"instances": [{"pod": f"p{number}", "state": "Loaded"} for number in range(100)]}
        api.put("loraadapters", body)
    api.put("loraadapters", rival("first", "vllm"))
    async with api.serving() as cluster:
        response = await answer(cluster, rival("second", "vllm"))
        assert not response["allowed"]
        assert "'first'" in response["status"]["message"]
    assert [query["fieldSelector"] for _, query in api.lists] == ["spec.adapterName=sql"]
    assert all("limit" in query for _, query in api.lists)
    assert api.sent < 10_000


async def test_rival_without_an_adapter_name_is_found_by_its_own() -> None:
    api = LoraApiServer()
    api.put("loraadapters", rival("sql", "vllm", None))
    async with api.serving() as cluster:
        assert not (await answer(cluster, rival("second", "vllm")))["allowed"]
        assert (await answer(cluster, rival("third", "other")))["allowed"]


async def test_server_that_selects_by_no_field_is_not_asked_for_all() -> None:
    api = LoraApiServer()
    api.put("loraadapters", rival("first", "vllm"))
    api.selects_fields = False
    async with api.serving() as cluster:
        known = Caches(cluster)
        watches = [asyncio.create_task(watch) for watch in known.watches()]
        await until("all is known", lambda: known.complete, lambda: known.adapters.problem_in("team"))
        before = len(api.lists)
        request = {"uid": "7", "namespace": "team", "object": rival("second", "vllm")}
        review = {"apiVersion": "admission.k8s.io/v1", "request": request}
        response = (await loraadapters.answer(loraadapters.Rivals(cluster, known), review)).review["response"]
        assert not response["allowed"]
        assert len(api.lists) == before + 1
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

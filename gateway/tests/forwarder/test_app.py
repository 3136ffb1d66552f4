"""The forwarder before an engine: calls, streams, plain requests, the limit, and what the engine answers."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from engine_double.server import Double, running_double
from patio_gateway.forwarder.app import Limits
from patio_testing.model_gateway import Recorder, serving, until

from .forwarders import CHAT, COMPLETIONS, HELLO, forwarder, in_time, results

PROMPT = {"model": "tiny", "prompt": "Say it", "max_tokens": 3, "seed": 1}


async def direct(double: Double, path: str, body: Any) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(f"{double.url}{path}", json=body)


def without_identity(text: str) -> str:
    """Return an answer without what differs from request to request."""
    return re.sub(r'"(id|created)": ?("[^"]*"|\d+)', "", text)


async def test_call_gets_the_engines_answer_as_a_string() -> None:
    async with running_double() as double, forwarder(double.port) as forward:
        answer = await forward.call(HELLO)
        expected = await direct(double, CHAT, HELLO)
        sent = [request.body for request in double.calls(CHAT)]
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    result = answer.json()["result"]
    assert without_identity(result) == without_identity(json.dumps(expected.json()))
    assert sent == [HELLO, HELLO]


async def test_call_gets_json_where_the_config_or_it_says_so() -> None:
    async with (
        running_double() as double,
        forwarder(double.port, "forwarder.sync.serialize_results_as_string=false") as forward,
    ):
        for args in (PROMPT, PROMPT | {"serialize_results_as_string": True}):
            result = (await forward.call(args, COMPLETIONS)).json()["result"]
            content = json.loads(result) if "serialize_results_as_string" in args else result
            assert content["choices"][0]["text"]


async def test_answer_is_not_wrapped_where_the_config_says_so() -> None:
    async with running_double() as double, forwarder(double.port, "forwarder.sync.wrap_response=false") as forward:
        answer = await forward.call(PROMPT, COMPLETIONS)
        expected = await direct(double, COMPLETIONS, PROMPT)
    assert without_identity(answer.text) == without_identity(expected.text)


async def test_engine_gets_the_whole_body_where_nothing_is_unwrapped() -> None:
    engine = Recorder()
    async with (
        serving(engine.app()) as (_, port),
        forwarder(port, "forwarder.sync.model_engine_unwrap=false") as forward,
    ):
        await forward.call({"a": 1}, "/predict", url=None)
    assert json.loads(engine.received[0].body) == {"args": {"a": 1}, "url": None}


async def test_predict_reaches_the_engines_predict_route() -> None:
    engine = Recorder()
    async with (
        serving(engine.app()) as (_, port),
        forwarder(port, "forwarder.sync.predict_route=/v1/generate") as forward,
    ):
        for path in ("/predict", "/v1/generate"):
            assert json.loads((await forward.call([1], path)).json()["result"]) == {"length": 3}
    assert [(each.path, each.body) for each in engine.received] == [("/v1/generate", b"[1]")] * 2


async def test_engine_gets_the_trace_but_no_credentials_of_a_call() -> None:
    engine = Recorder()
    headers = {"traceparent": "00-1-2-01", "authorization": "Bearer sk-secret", "cookie": "a=b", "x-other": "x"}
    async with serving(engine.app()) as (_, port), forwarder(port) as forward:
        await forward.http.post("/predict", json={"args": {}}, headers=headers)
    received = engine.received[0].headers
    assert received["traceparent"] == "00-1-2-01"
    assert set(received) == {
        *("host", "content-length", "content-type", "accept", "accept-encoding", "traceparent"),
    }


# Streams


async def test_stream_has_each_event_of_the_engine_as_a_result() -> None:
    async with running_double() as double, forwarder(double.port) as forward:
        async with forward.stream(PROMPT, COMPLETIONS) as answer:
            text = (await answer.aread()).decode()
        expected = await direct(double, COMPLETIONS, PROMPT | {"stream": True})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    found = results(text)
    assert found[-1] == "[DONE]"
    data = [line.removeprefix("data: ") for line in expected.text.splitlines() if line]
    assert [without_identity(json.dumps(each)) for each in found[:-1]] == [
        without_identity(json.dumps(json.loads(each))) for each in data[:-1]
    ]


async def test_stream_has_strings_where_the_config_says_so() -> None:
    options = ["forwarder.stream.serialize_results_as_string=true"]
    async with (
        running_double() as double,
        forwarder(double.port, *options) as forward,
        forward.stream(PROMPT, COMPLETIONS) as answer,
    ):
        found = results((await answer.aread()).decode())
    assert json.loads(found[0])["object"] == "text_completion"


async def test_events_come_while_the_engine_still_generates() -> None:
    async with (
        running_double(tokens_per_second=0.5) as double,
        forwarder(double.port) as forward,
        forward.stream(HELLO | {"max_tokens": 400}) as answer,
    ):
        first = await in_time(anext(answer.aiter_text()))
        assert first.startswith('data: {"result":{')
        assert double.engine.core.batch.running.total() == 1


async def test_stream_route_streams_without_being_asked() -> None:
    async def events(_: Request) -> Response:
        return Response(b"data: 1\n\ndata: two\n\n", media_type="text/event-stream")

    async with serving(Recorder(events).app()) as (_, port), forwarder(port) as forward:
        answer = await forward.call({"a": 1}, "/stream")
    assert results(answer.text) == [1, "two"]


async def test_answer_without_events_is_a_stream_of_one_result() -> None:
    async with serving(Recorder().app()) as (_, port), forwarder(port) as forward:
        answer = await forward.call({}, "/stream")
    assert results(answer.text) == [{"length": 2}]


async def test_stream_without_events_ends_at_once() -> None:
    async def nothing(_: Request) -> Response:
        return Response(b": ping\n\n", media_type="text/event-stream")

    async with serving(Recorder(nothing).app()) as (_, port), forwarder(port) as forward:
        answer = await forward.call({}, "/stream")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_kind_of_call_that_a_route_lacks_is_422() -> None:
    async with serving(Recorder().app()) as (_, port), forwarder(port) as forward:
        answers = [await forward.call({"stream": True}, "/predict"), await forward.call({"stream": False}, "/stream")]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert "/predict does not stream" in answers[0].json()["detail"]
    assert "/stream only streams" in answers[1].json()["detail"]


# Plain requests


async def test_plain_request_and_its_answer_are_unchanged() -> None:
    async with running_double() as double, forwarder(double.port) as forward:
        answer = await forward.http.post(COMPLETIONS, json=PROMPT)
        expected = await direct(double, COMPLETIONS, PROMPT)
    assert without_identity(answer.text) == without_identity(expected.text)
    assert answer.headers["content-type"] == expected.headers["content-type"]


async def test_defect_6_plain_stream_ends_with_done() -> None:
    async with running_double() as double, forwarder(double.port) as forward:
        answer = await forward.http.post(CHAT, json=HELLO | {"stream": True})
        expected = await direct(double, CHAT, HELLO | {"stream": True})
    assert answer.text.endswith("data: [DONE]\n\n")
    assert without_identity(answer.text) == without_identity(expected.text)


async def test_form_passes_byte_by_byte_with_its_query() -> None:
    engine = Recorder()
    async with serving(engine.app()) as (_, port), forwarder(port) as forward:
        body = b"--x\r\n\r\n\xff{\r\n--x--"
        headers = {"content-type": "multipart/form-data; boundary=x", "authorization": "Bearer k"}
        await forward.http.post(f"{CHAT}?a=%2F", content=body, headers=headers)
    (received,) = engine.received
    assert (received.path, received.body) == (CHAT, body)
    assert (received.headers["content-type"], received.headers["authorization"]) == tuple(headers.values())


@pytest.mark.parametrize("body", [b"", b"{", b'{"args": null}'])
async def test_body_that_cannot_be_unwrapped_is_422(body: bytes) -> None:
    engine = Recorder()
    async with serving(engine.app()) as (_, port), forwarder(port) as forward:
        answer = await forward.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith(".")
    assert engine.received == []


# Passthrough

THROUGH = ["forwarder.stream.forwarder_type=passthrough", "forwarder.stream.extra_routes=['/mcp','/mcp/{path:path}']"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_passthrough_takes_every_method(method: str) -> None:
    seen: list[tuple[str, bytes, bytes, bytes]] = []

    async def engine(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        seen.append((request.method, scope["raw_path"], scope["query_string"], await request.body()))
        await Response(b"x", 203, {"x-engine": "e", "connection": "close, x-hop", "x-hop": "1"})(scope, receive, send)

    async with serving(engine) as (_, port), forwarder(port, *THROUGH) as forward:
        answer = await forward.http.request(method, "/mcp/a%2Fb?c=%20d", content=b'{"args": 1}')
    assert seen == [(method, b"/mcp/a%2Fb", b"c=%20d", b'{"args": 1}')]
    assert (answer.status_code, answer.headers["x-engine"]) == (203, "e")
    assert "x-hop" not in answer.headers
    assert answer.content == (b"" if method == "HEAD" else b"x")


@pytest.mark.parametrize("path", ["/mcp/../v1/load_lora_adapter", "/mcp/%2e%2e/x", "/mcp/a/./b", "/mcp/.."])
async def test_path_cannot_leave_the_routes_of_the_config(path: str) -> None:
    engine = Recorder()
    async with serving(engine.app()) as (_, port), forwarder(port, *THROUGH) as forward:
        # httpx resolves such paths itself.
        base = forward.http.base_url
        reader, writer = await asyncio.open_connection(base.host, base.port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        answer = await in_time(reader.read())
        writer.close()
    assert answer.startswith(b"HTTP/1.1 404")
    assert engine.received == []


async def test_paths_beside_the_config_are_closed() -> None:
    engine = Recorder()
    async with serving(engine.app()) as (_, port), forwarder(port) as forward:
        missing, wrong = await forward.http.post("/v1/load_lora_adapter"), await forward.http.get(CHAT)
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})
    assert engine.received == []


# Errors of the engine


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_defect_8_failure_has_the_engines_status_and_text(status: int) -> None:
    async with running_double() as double, forwarder(double.port) as forward:
        double.fault(CHAT, status=status, body='{"error":{"message":"too long"}}', content_type="application/json")
        answer = await forward.call(HELLO)
    assert answer.status_code == status
    assert json.loads(answer.json()["result"]) == {"error": {"message": "too long"}}


async def test_status_is_in_the_body_alone_where_the_config_says_so() -> None:
    options = ["forwarder.sync.forward_http_status=false", "forwarder.sync.forward_http_status_in_body=true"]
    async with running_double() as double, forwarder(double.port, *options) as forward:
        double.fault(CHAT, status=500, body="Internal Server Error")
        answer = await forward.call(HELLO)
    assert (answer.status_code, answer.json()) == (200, {"result": '"Internal Server Error"', "status_code": 500})


async def test_defect_7_error_of_a_stream_keeps_its_status() -> None:
    async with running_double() as double, forwarder(double.port) as forward:
        async with forward.stream(HELLO | {"model": "other"}) as answer:
            body = json.loads(await answer.aread())
        expected = await direct(double, CHAT, HELLO | {"model": "other", "stream": True})
        double.fault(CHAT, status=500, body="no <json>")
        async with forward.stream(HELLO) as broken:
            text = json.loads(await broken.aread())
    assert (answer.status_code, body) == (404, {"detail": expected.json()})
    assert (broken.status_code, text) == (500, {"detail": "no <json>"})


async def test_answer_of_a_status_without_a_body_has_a_result() -> None:
    async def empty(_: Request) -> Response:
        return Response(status_code=204)

    async with serving(Recorder(empty).app()) as (_, port), forwarder(port) as forward:
        answer = await forward.call({}, "/predict")
    assert (answer.status_code, answer.json()) == (200, {"result": "null"})


async def test_engine_that_starts_or_ended_is_503_to_send_again() -> None:
    async with running_double() as double, forwarder(double.port) as forward:
        await double.crash()
        answers = [await forward.call(HELLO), await forward.http.post(CHAT, json=HELLO)]
        async with forward.stream(HELLO) as streamed:
            await streamed.aread()
        await double.start()
        assert (await forward.call(HELLO)).status_code == 200
    for answer in (*answers, streamed):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert f"127.0.0.1:{double.port} takes no connection" in answer.json()["detail"]


async def test_engine_that_is_silent_is_504() -> None:
    async with running_double() as double, forwarder(double.port, silence_seconds=0.1) as forward:
        double.fault(CHAT, delay=60)
        answer = await forward.call(HELLO)
    assert answer.status_code == 504
    assert "sent nothing for 0.1 s" in answer.json()["detail"]


# The limit

ONE = ["forwarder.max_concurrency=1"]


@pytest.mark.parametrize("is_call", [True, False])
async def test_defect_5_streams_count_until_their_end(is_call: bool) -> None:
    """Model Engine gives the place back when a stream starts."""
    args = HELLO | {"max_tokens": 500, "stream": True}
    async with running_double(tokens_per_second=0.5) as double, forwarder(double.port, *ONE) as forward:
        body = {"args": args} if is_call else args
        async with forward.http.stream("POST", CHAT, json=body) as streaming:
            await in_time(anext(streaming.aiter_bytes()))
            answer = await forward.call(HELLO)
            assert (answer.status_code, answer.json()) == (429, {"detail": "Too many requests"})
            assert answer.headers["retry-after"] == "1"
            assert [(await forward.http.get(path)).status_code for path in ("/healthz",)] == [200]
        double.engine.core.batch.abort()
        await until(lambda: _answers(forward.http), "the place of the stream is free")


async def _answers(client: httpx.AsyncClient) -> bool:
    return (await client.post(CHAT, json=HELLO | {"max_tokens": 1, "model": "other"})).status_code == 404


async def test_failures_of_every_kind_give_their_place_back() -> None:
    limits = Limits(most_body=1000)
    async with running_double() as double, forwarder(double.port, *ONE, limits=limits) as forward:
        for body, status in ((b"{", 422), (b"x" * 1001, 413), (b'{"args": {"stream": true, "model": "o"}}', 400)):
            double.fault(CHAT, status=400, times=1)
            answer = await forward.http.post(CHAT, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == status
            double.clear_faults()
        await double.crash()
        assert (await forward.call(HELLO)).status_code == 503
        await double.start()
        assert (await forward.call(HELLO)).status_code == 200


async def test_limit_admits_as_many_as_it_says() -> None:
    async with (
        running_double(max_num_seqs=8) as double,
        forwarder(double.port, "forwarder.max_concurrency=3") as forward,
    ):
        double.engine.core.batch.pause()
        calls = [asyncio.create_task(forward.call(HELLO)) for _ in range(5)]
        await until(lambda: sum(call.done() for call in calls) == 2, "two are rejected")
        assert [call.result().status_code for call in calls if call.done()] == [429, 429]
        double.engine.core.batch.resume()
        answers = await asyncio.gather(*calls)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429, 429]


# Bounds


async def test_body_at_its_limit_passes_and_above_is_413() -> None:
    engine = Recorder()
    async with serving(engine.app()) as (_, port), forwarder(port, limits=Limits(most_body=1000)) as forward:
        answers = [
            await forward.http.post(CHAT, content=b"x" * size, headers={"content-type": "text/plain"})
            for size in (1000, 1001)
        ]
    assert [answer.status_code for answer in answers] == [200, 413]
    assert "1000 bytes" in answers[1].json()["detail"]
    assert len(engine.received) == 1


async def test_bodies_together_have_a_limit() -> None:
    async with (
        running_double() as double,
        forwarder(double.port, limits=Limits(most_body=1000, most_kept=1500)) as forward,
    ):
        double.engine.core.batch.pause()
        args = HELLO | {"x": "x" * 800}
        first = asyncio.create_task(forward.call(args))
        batch = double.engine.core.batch
        await until(lambda: batch.waiting.total() + batch.running.total(), "the first is at the engine")
        second = await forward.call(args)
        assert (second.status_code, second.headers["retry-after"]) == (429, "1")
        double.engine.core.batch.resume()
        assert (await first).status_code == 200
        assert (await forward.call(args)).status_code == 200


# Probes


async def test_defect_11_readyz_is_the_engines_and_healthz_its_own() -> None:
    health = [f"forwarder.{kind}.healthcheck_route=/health" for kind in ("sync", "stream")]
    async with running_double() as double, forwarder(double.port, *health) as forward:
        for path in ("/healthz", "/readyz"):
            answer = await forward.http.get(path)
            assert (answer.status_code, answer.json()) == (200, "OK")
        await double.crash()
        answer = await until(lambda: _not_ready(forward.http), "the forwarder is not ready")
        assert "takes no connection" in answer.json()["detail"]
        assert (await forward.http.get("/healthz")).status_code == 200


async def _not_ready(client: httpx.AsyncClient) -> httpx.Response | None:
    answer = await client.get("/readyz")
    return answer if answer.status_code == 503 else None

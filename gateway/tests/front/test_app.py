"""The front's answers: what is held, what is refused and in which words, and what only control may ask."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from patio_gateway.app import Knowledge
from patio_gateway.front.app import Limits, build
from patio_gateway.front.queue.queues import Bounds
from patio_gateway.front.rounds import MOST_ROUNDS
from patio_gateway.snapshot import Client, Model, QueueLimits, Snapshot, Start, StartPhase, Worker

from .fronts import CHAT, HELLO, WORKER, error_of, front

ASLEEP = Model("a/m", ("m", "chat"), adapters=("sql",))
READY = dataclasses.replace(ASLEEP, workers=(WORKER,))


def queueing(most: int = 1000, timeout: float = 300.0, start: Start | None = None) -> Model:
    return dataclasses.replace(ASLEEP, queue=QueueLimits(max=most, timeout=timeout), start=start or Start())


async def test_held_request_goes_back_to_envoy_when_a_worker_is_ready() -> None:
    async with front(ASLEEP) as gateway:
        (task,) = gateway.begin(1, host="models.example:8080")
        await gateway.held(1)
        gateway.publish(READY)
        answer = await task
        await gateway.held(0)
    assert (answer.status_code, answer.headers["x-patio-held"]) == (307, "1")
    assert answer.headers["location"] == f"http://models.example:8080{CHAT}"


async def test_location_keeps_path_query_and_scheme_as_they_came() -> None:
    async with front(READY) as gateway:
        answer = await gateway.ask(path="/v1/a%20b/%C3%BC?x=%2F&y", x_forwarded_proto="https")
    assert answer.headers["location"] == "https://gateway/v1/a%20b/%C3%BC?x=%2F&y"


async def test_five_hundred_held_requests_all_go_back() -> None:
    async with front(ASLEEP) as gateway:
        tasks = gateway.begin(500)
        await gateway.held(500)
        gateway.publish(dataclasses.replace(READY, queue=QueueLimits(per_worker=100)))
        answers = await asyncio.gather(*tasks)
    assert [answer.status_code for answer in answers] == [307] * 500


async def test_adapter_waits_for_a_worker_that_has_loaded_it() -> None:
    async with front(READY) as gateway:
        task = asyncio.create_task(gateway.ask("sql"))
        await gateway.held(1)
        gateway.publish(dataclasses.replace(READY, workers=(Worker("m-0", ("127.0.0.1", 1), frozenset({"sql"})),)))
        assert (await task).status_code == 307


async def test_full_queue_is_429_with_the_state_of_the_start() -> None:
    async with front(queueing(most=1, start=Start(StartPhase.DOWNLOADING, 34))) as gateway:
        (task,) = gateway.begin(1)
        await gateway.held(1)
        answer = await gateway.ask()
        task.cancel()
    assert answer.status_code == 429
    error = error_of(answer)
    assert (error["code"], error["type"]) == ("queue_full", "rate_limit_error")
    assert "State: Downloading 34 %." in error["message"]


async def test_timeout_is_503_with_the_state_that_holds_then() -> None:
    async with front(queueing(timeout=0.01, start=Start(StartPhase.PULLING, message="Image vllm:1"))) as gateway:
        answer = await gateway.ask()
    assert answer.status_code == 503
    error = error_of(answer)
    assert error["code"] == "model_start_timeout"
    assert error["message"].endswith("State: Pulling. Image vllm:1.")


async def test_adapter_that_no_worker_loads_is_503_and_says_so() -> None:
    slow = dataclasses.replace(READY, queue=QueueLimits(timeout=0.01))
    async with front(slow) as gateway:
        assert error_of(await gateway.ask("sql"))["code"] == "adapter_load_timeout"


async def test_deleted_model_ends_its_waits_with_404() -> None:
    async with front(ASLEEP) as gateway:
        (task,) = gateway.begin(1)
        await gateway.held(1)
        gateway.publish()
        answer = await task
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("name", "left"), [("m", ()), ("sql", (dataclasses.replace(READY, adapters=()),))])
async def test_name_that_goes_while_a_body_comes_is_404(name: str, left: tuple[Model, ...]) -> None:
    async with front(READY) as gateway:

        async def body() -> AsyncIterator[bytes]:
            content = json.dumps(HELLO | {"model": name}).encode()
            yield content[:5]
            gateway.publish(*left)
            yield content[5:]

        headers = {"content-type": "application/json", "x-patio-model": name}
        answer = await gateway.http.post(CHAT, content=body(), headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")


async def test_client_that_hangs_up_frees_its_place() -> None:
    async with front(queueing(most=1)) as gateway:
        left = asyncio.Event()
        received = iter([{"type": "http.request", "body": json.dumps(HELLO).encode(), "more_body": False}])

        async def receive() -> dict[str, object]:
            for message in received:
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(_: object) -> None:
            pass

        scope = {
            **{"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b""},
            **{"headers": [(b"x-patio-model", b"m")], "scheme": "http", "root_path": "", "http_version": "1.1"},
        }
        call = asyncio.create_task(gateway.app(scope, receive, send))
        await gateway.held(1)
        left.set()
        await call
        await gateway.held(0)
        (task,) = gateway.begin(1)
        await gateway.held(1)
        task.cancel()


async def test_rounds_of_clients_with_one_id_are_apart() -> None:
    async with front(READY) as gateway:
        for client in range(MOST_ROUNDS + 1):
            assert (await gateway.ask(x_request_id="r-1", x_patio_client=f"c-{client}")).status_code == 307


async def test_unknown_model_is_404_in_openai_s_shape() -> None:
    async with front(ASLEEP) as gateway:
        answer = await gateway.ask("nobody")
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["type"] == "invalid_request_error"


async def test_denied_model_looks_like_an_unknown_one() -> None:
    async with front(ASLEEP) as gateway:
        denied = await gateway.ask("m", x_patio_denied="1")
        gateway.publish()
        assert denied.json() == (await gateway.ask("m")).json()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_request_body"),
        (b"[" * 100_000, 400, "invalid_request_body"),
        ({"messages": []}, 400, "invalid_request_body"),
        ({"messages": [{"role": "user"}]}, 400, "model_missing"),
        ({"model": "modèle \udcff", "messages": [{"role": "user"}]}, 404, "model_not_found"),
    ],
)
async def test_body_without_a_readable_model(body: object, status: int, code: str) -> None:
    async with front(ASLEEP) as gateway:
        answer = await gateway.ask("", body)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)


async def test_body_that_no_engine_takes_starts_no_worker() -> None:
    async with front(ASLEEP) as gateway:
        answer = await gateway.ask("m", {"model": "m", "messages": "Hello"})
        assert (await gateway.demand())["endpoints"] == []
    assert (answer.status_code, error_of(answer)["param"]) == (400, "messages")


async def test_too_large_body_is_413() -> None:
    async with front(ASLEEP, limits=Limits(most_body=100)) as gateway:
        answer = await gateway.ask(body=b"x" * 101)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")


async def test_bodies_beyond_the_memory_for_them_are_429() -> None:
    async with front(ASLEEP, limits=Limits(most_kept=10)) as gateway:
        answer = await gateway.ask()
    assert (answer.status_code, error_of(answer)["code"]) == (429, "queue_full")


async def test_held_bytes_of_all_requests_are_bounded() -> None:
    size = len(json.dumps(HELLO))
    async with front(ASLEEP, limits=Limits(held=Bounds(size=size))) as gateway:
        (task,) = gateway.begin(1)
        await gateway.held(1)
        answer = await gateway.ask()
        assert (answer.status_code, error_of(answer)["code"]) == (429, "queue_full")
        task.cancel()


async def test_path_that_nobody_has_is_404_and_no_model() -> None:
    async with front(ASLEEP) as gateway:
        answer = await gateway.http.get("/favicon.ico")
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
        answer = await gateway.http.request("TRACE", "/v1/models")
        assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")


async def test_disabled_model_is_503_and_not_held() -> None:
    async with front(dataclasses.replace(ASLEEP, can_wake=False)) as gateway:
        answer = await gateway.ask()
    assert (answer.status_code, error_of(answer)["code"]) == (503, "model_disabled")
    assert "workers.max of the endpoint a/m" in error_of(answer)["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models"])
async def test_list_has_models_aliases_and_adapters_with_parents(path: str) -> None:
    async with front(dataclasses.replace(ASLEEP, created=1700000000, owner="team-a")) as gateway:
        body = (await gateway.http.get(path)).json()
        entry = (await gateway.http.get(f"{path}/sql")).json()
    assert body["object"] == "list"
    assert [(each["id"], each["parent"]) for each in body["data"]] == [("m", None), ("chat", None), ("sql", "m")]
    assert entry == body["data"][2]
    assert (entry["object"], entry["created"], entry["owned_by"]) == ("model", 1700000000, "team-a")


async def test_list_has_only_what_the_client_may_use() -> None:
    models = (ASLEEP, Model("b/n", ("n",)), Model("c/p", ("p",), public=True))
    clients = (Client("team-a", "sk-a", endpoints=("a/*",)),)
    async with front() as gateway:
        gateway.publish(*models, closed=True, clients=clients)

        async def names(**headers: str) -> list[str]:
            answer = await gateway.http.get("/v1/models", headers=headers)
            return [each["id"] for each in answer.json()["data"]]

        assert await names(**{"x-patio-client": "team-a"}) == ["m", "chat", "sql", "p"]
        assert await names() == ["p"]
        assert await names(**{"x-patio-client": "nobody"}) == ["p"]
        hidden = await gateway.http.get("/v1/models/n", headers={"x-patio-client": "team-a"})
        assert (hidden.status_code, error_of(hidden)["code"]) == (404, "model_not_found")


async def test_demand_tells_control_of_a_held_request_at_once() -> None:
    async with front(ASLEEP) as gateway:
        before = await gateway.demand()
        waiting = asyncio.create_task(gateway.demand(before["version"]))
        (task,) = gateway.begin(1)
        after = await waiting
        await gateway.held(1)
        task.cancel()
    assert before["endpoints"] == []
    (found,) = after["endpoints"]
    assert found["endpoint"] == "a/m"
    assert found.keys() == {"endpoint", "held", "oldestWaitSeconds", "lastActivity"}


async def test_demand_answers_at_the_end_of_a_poll_without_news() -> None:
    async with front(ASLEEP, limits=Limits(longest_poll=0.01)) as gateway:
        version = (await gateway.demand())["version"]
        assert (await gateway.demand(version))["version"] == version


async def test_demand_with_an_odd_version_is_400() -> None:
    async with front() as gateway:
        answer = await gateway.http.get("/demand", params={"after": "-1"})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "after")


@pytest.mark.parametrize("path", ["/demand", "/metrics"])
async def test_clients_from_outside_get_neither_demand_nor_metrics(path: str) -> None:
    async with front() as gateway:
        answer = await gateway.http.get(path, headers={"x-patio-admitted": "1"})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


async def test_metrics_count_waits_and_answers_of_known_models() -> None:
    async with front(READY) as gateway:
        await gateway.ask()
        await gateway.ask("nobody")
        text = (await gateway.http.get("/metrics")).text
        gateway.publish()
        later = (await gateway.http.get("/metrics")).text
    assert 'patio_gateway_queue_seconds_count{endpoint="a/m",outcome="ready"} 1.0' in text
    assert 'patio_gateway_queue_length{endpoint="a/m"} 0.0' in text
    assert 'patio_gateway_front_answers_total{code="307"} 1.0' in text
    assert 'patio_gateway_front_answers_total{code="404"} 1.0' in text
    assert "a/m" not in later


async def test_overview_needs_a_key_where_the_gateway_is_closed() -> None:
    async with front() as gateway:
        gateway.publish(ASLEEP, closed=True, clients=(Client("team-a", "sk-a"),))
        assert error_of(await gateway.http.get("/overview"))["code"] == "invalid_api_key"
        answer = await gateway.http.get("/overview", headers={"x-patio-client": "team-a"})
    assert [model["name"] for model in answer.json()["models"]] == ["m"]
    assert "sk-a" not in answer.text


async def test_probes_answer_empty() -> None:
    async with front() as gateway:
        for path in ("/healthz", "/readyz", "/healthcheck"):
            answer = await gateway.http.get(path)
            assert (answer.status_code, answer.content) == (200, b"")


async def test_gateway_that_knows_nothing_yet_says_so() -> None:
    knowledge = Knowledge()
    transport = httpx.ASGITransport(build(knowledge))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        answers = [await http.get(path) for path in ("/readyz", "/v1/models", "/v1/models/m")]
        answers.append(await http.post(CHAT, json=HELLO, headers={"x-patio-model": "m"}))
        assert {error_of(answer)["code"] for answer in answers} == {"gateway_starting"}
        assert [answer.status_code for answer in answers] == [503] * 4
        assert (await http.get("/healthz")).status_code == 200
        knowledge.publish(Snapshot(closed=False), taken=False)
        assert (await http.get("/readyz")).status_code == 503
        knowledge.publish(Snapshot(closed=False))
        assert (await http.get("/readyz")).status_code == 200
        # It stays ready if Envoy is late with a later one.
        knowledge.publish(Snapshot(closed=False), taken=False)
        assert (await http.get("/readyz")).status_code == 200


async def test_gateway_that_stops_is_not_ready() -> None:
    async with front(ASLEEP) as gateway:
        gateway.app.stop_holding()
        assert error_of(await gateway.http.get("/readyz"))["code"] == "gateway_stopping"
        assert (await gateway.http.get("/healthz")).status_code == 200

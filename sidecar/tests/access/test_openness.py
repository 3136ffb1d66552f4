"""To whom each route is open, and that no spelling of a call from outside reaches a closed one."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Scope

from benchmarks.fuzz_guard import (
    ROUTER_KEY,
    Answers,
    Attempt,
    Attempts,
    applications,
    call,
    hold,
    routes_of,
    watch,
)
from patio.access.limits import MAX_DEPTH, MAX_HEADERS, MAX_TARGET
from patio.access.openness import To, openness_of
from patio.adapters.store import Store
from patio.app import assemble
from patio.routes.topology import MAX_LEASE
from patio.settings import Settings, read_settings
from patio_protocol.authentication import MAX_BODY

OPEN = {
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/v1/topology"),
    ("GET", "/docs"),
    ("HEAD", "/docs"),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
}
OF_ADAPTERS = {("GET", "/v1/lora_adapters"), ("GET", "/v1/downloads"), ("GET", "/v1/downloads/{download_id}")}
LEASES = {("PUT", "/v1/topology/leases/{lease_id}"), ("DELETE", "/v1/topology/leases/{lease_id}")}
DRAINS = {("GET", "/v1/drain"), ("POST", "/v1/drain")}
BESIDE_ENGINE, BESIDE_ROUTER = 0, 1


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> list[FastAPI]:
    """Beside an engine, beside a router; a closed endpoint that is reached raises."""
    both_apps = list(applications(tmp_path_factory.mktemp("downloads")))
    for app in both_apps:
        watch(app, Answers())
    return both_apps


def open_to(app: FastAPI, *callers: To) -> set[tuple[str, str]]:
    return {
        (method, route.path)  # type: ignore[attr-defined]
        for route in app.router.routes
        for method in route.methods  # type: ignore[attr-defined]
        if openness_of(route.endpoint).to in callers  # type: ignore[attr-defined]
    }


def test_open_routes_are_these_and_all_others_are_closed(apps: list[FastAPI]) -> None:
    engine, router = apps
    assert open_to(engine, To.EVERYONE) == OPEN | OF_ADAPTERS
    assert open_to(router, To.EVERYONE) == OPEN
    assert (open_to(engine, To.KEY), open_to(router, To.KEY)) == (set(), LEASES)
    assert (open_to(engine, To.HOOK), open_to(router, To.HOOK)) == (DRAINS, set())


async def test_new_route_is_closed_until_it_says_otherwise(apps: list[FastAPI]) -> None:
    app = assemble(Settings(), Store(None), httpx.AsyncClient(), asyncio.Event()).app
    reached = []

    @app.get("/new")
    async def new() -> None:
        reached.append("new")

    for peer in ("10.1.2.3", "127.0.0.1"):
        status, _ = await call(app, Attempt("GET", "/new"), peer)
        assert (status, reached) == (401, [])


@settings(deadline=None, max_examples=300)
@given(st.randoms(use_true_random=False), st.sampled_from([BESIDE_ENGINE, BESIDE_ROUTER]))
def test_no_spelling_from_outside_reaches_a_closed_route(
    apps: list[FastAPI], rng: random.Random, app_index: int
) -> None:
    app = apps[app_index]
    attempts = Attempts(routes_of(app))

    async def send_attempts() -> None:
        for _ in range(10):
            await hold(app, attempts.make(rng), Answers())

    asyncio.run(send_attempts())


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=40), st.sampled_from(["GET", "POST"]))
def test_any_target_from_outside_reaches_no_closed_route(apps: list[FastAPI], target: str, method: str) -> None:
    asyncio.run(hold(apps[BESIDE_ENGINE], Attempt(method, "/v1/" + target), Answers()))


@pytest.mark.parametrize("end", ["%0A", "%0a", "%00", "%0D%0A", "%09", "%1B", "%7F", "%C2%85", "\n", "\x00"])
@pytest.mark.parametrize("path", ["/v1/drain", "/health", "/v1/load_lora_adapter", "/nothing"])
@pytest.mark.parametrize("peer", ["10.1.2.3", "127.0.0.1"])
async def test_path_with_control_character_gets_400(apps: list[FastAPI], path: str, end: str, peer: str) -> None:
    for method in ("GET", "POST"):
        status, body = await call(apps[BESIDE_ENGINE], Attempt(method, path + end), peer)
        assert (status, json.loads(body)["error"]["code"]) == (400, "InvalidRequest")


async def test_unknown_path_is_401_outside_and_404_inside(apps: list[FastAPI]) -> None:
    for path in ("/nothing", "/health/", "/v1/drain/", "//health", "http://sidecar/health", "*"):
        assert (await call(apps[BESIDE_ENGINE], Attempt("GET", path)))[0] == 401
        assert (await call(apps[BESIDE_ENGINE], Attempt("GET", path), "127.0.0.1"))[0] == 404


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (Attempt("GET", "/health?" + "a" * (MAX_TARGET - 8)), 200),
        (Attempt("GET", "/health?" + "a" * (MAX_TARGET - 7)), 414),
        (Attempt("GET", "/health", (("x", "y"),) * MAX_HEADERS), 200),
        (Attempt("GET", "/health", (("x", "y"),) * (MAX_HEADERS + 1)), 431),
        (Attempt("GET", "/health", (("x", "y" * 49_000),)), 200),
        (Attempt("GET", "/health", (("x", "y" * 50_000),)), 431),
    ],
)
async def test_heads_have_a_greatest_size(apps: list[FastAPI], attempt: Attempt, expected: int) -> None:
    assert (await call(apps[BESIDE_ENGINE], attempt))[0] == expected


def new_app() -> FastAPI:
    return assemble(Settings(), Store(None), httpx.AsyncClient(), asyncio.Event()).app


JSON = (("content-type", "application/json"),)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"extra": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'["\\"]", ' + b"[" * (MAX_DEPTH + 1),
        '{"lora_name": "a"}'.encode("utf-16"),
        b'{"lora_name": "\xff"}',
        b"\0",
    ],
)
@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/download_model", "/v1/drain"])
async def test_body_that_no_client_writes_gets_400(path: str, body: bytes) -> None:
    status, answer = await call(new_app(), Attempt("POST", path, JSON, body), "127.0.0.1")
    assert (status, json.loads(answer)["error"]["code"]) == (400, "InvalidRequest"), answer


def upload(path: str, peer: str, key: str | None = None, length: int = 2**30) -> tuple[Scope, list[int]]:
    """Return the scope of a PUT or POST with an endless body, and where what is read of it is counted."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    headers += [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "method": "PUT" if "leases" in path else "POST", "path": path, "raw_path": path.encode()}
    return {**scope, "query_string": b"", "headers": headers, "client": (peer, 5)}, []


async def status_and_code(app: FastAPI, scope: Scope, sizes_read: list[int]) -> tuple[int, str]:
    messages: list[Any] = []

    async def receive() -> Any:
        sizes_read.append(65536)
        return {"type": "http.request", "body": b" " * 65536, "more_body": True}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return messages[0]["status"], json.loads(messages[1]["body"])["error"]["code"]


@pytest.mark.parametrize("peer", ["10.1.2.3", "127.0.0.1"])
@pytest.mark.parametrize("key", [None, "", "another"])
async def test_lease_without_the_routers_key_is_rejected_unread(
    apps: list[FastAPI], peer: str, key: str | None
) -> None:
    scope, sizes_read = upload("/v1/topology/leases/a.b", peer, key)
    assert await status_and_code(apps[BESIDE_ROUTER], scope, sizes_read) == (401, "RouterKeyWrong")
    assert sizes_read == []


@pytest.mark.parametrize(
    ("path", "peer", "limit"),
    [
        ("/v1/topology/leases/a.b", "10.1.2.3", MAX_LEASE),
        ("/v1/topology/leases/a.b", "127.0.0.1", MAX_LEASE),
        ("/v1/load_lora_adapter", "127.0.0.1", MAX_BODY),
        ("/v1/download_model", "127.0.0.1", MAX_BODY),
        ("/v1/drain", "127.0.0.1", MAX_BODY),
    ],
)
async def test_body_of_anything_has_a_greatest_size(apps: list[FastAPI], path: str, peer: str, limit: int) -> None:
    app = apps[BESIDE_ROUTER if "leases" in path else BESIDE_ENGINE]
    scope, sizes_read = upload(path, peer, ROUTER_KEY)
    assert await status_and_code(app, scope, sizes_read) == (413, "BodyTooLarge")
    assert sum(sizes_read) <= limit + 65536


async def test_two_keys_are_none(apps: list[FastAPI]) -> None:
    scope, sizes_read = upload("/v1/topology/leases/a.b", "10.1.2.3", ROUTER_KEY)
    scope["headers"].append((b"authorization", b"Bearer x"))
    assert await status_and_code(apps[BESIDE_ROUTER], scope, sizes_read) == (401, "RouterKeyWrong")


async def test_body_as_deep_as_allowed_is_read() -> None:
    body = b'{"x": "' + b"[{" * 500 + b'", "y": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    status, answer = await call(new_app(), Attempt("POST", "/v1/drain", JSON, body), "127.0.0.1")
    assert status == 400
    assert "Extra inputs" in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize(
    "query",
    ["wait=nan", "wait=NaN", "wait=inf", "wait=-inf", "wait=1e999", "wait=-1", "wait=300.1", "wait=", "wait=%00"],
)
async def test_wait_that_is_no_time_gets_400(query: str) -> None:
    status, _ = await call(new_app(), Attempt("GET", f"/v1/lora_adapters?revision=x&{query}"))
    assert status == 400


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "3600.5", "[]"])
async def test_timeout_that_is_no_time_gets_400_and_drains_nothing(value: str) -> None:
    app = new_app()
    body = f'{{"timeout": {value}}}'.encode()
    status, _ = await call(app, Attempt("POST", "/v1/drain", JSON, body), "127.0.0.1")
    assert status == 400
    _, ready = await call(app, Attempt("GET", "/ready"))
    assert not any("drain" in reason for reason in json.loads(ready)["waiting_for"])


async def test_message_about_a_wrong_request_is_bounded() -> None:
    body = json.dumps({f"key{number}" * 50: 1 for number in range(1000)}).encode()
    _, answer = await call(new_app(), Attempt("POST", "/v1/load_lora_adapter", JSON, body), "127.0.0.1")
    assert len(json.loads(answer)["error"]["message"]) <= 1000


def routes() -> Iterator[APIRoute]:
    return (route for route in new_app().router.routes if isinstance(route, APIRoute))


def test_every_endpoint_that_takes_a_body_is_closed_or_keyed() -> None:
    assert [
        route.path for route in routes() if route.body_field and openness_of(route.endpoint).to is To.EVERYONE
    ] == []


async def test_no_secret_is_in_any_answer(tmp_path: Path) -> None:
    secrets = {
        "ENGINE_API_KEY": "engine-sekret",
        "ENGINE_ADMIN_API_KEY": "admin-sekret",
        "HF_AUTH_TOKEN": "hf-sekret",
        "ACCESS_KEY": "access-sekret",
        "SECRET_KEY": "s3-sekret",
        "SGL_ROUTER_API_KEY": "router-sekret",
    }
    variables = {**secrets, "PATIO_DOWNLOAD_ROOT": str(tmp_path), "INFERENCE_ENGINE_ENDPOINT": "http://127.0.0.1:9"}
    sidecar_settings = read_settings(["--enable-fastapi-docs"], variables)
    app = assemble(sidecar_settings, Store(None), httpx.AsyncClient(), asyncio.Event()).app
    order = {"lora_name": "a", "source": "hf://o/r", "config": json.dumps({"hf_token": "own-sekret"}), "wait": 0}
    answers = []
    for method, path in routes_of(app):
        path = path.replace("{download_id}", "x")
        for body in (b"", b"[", json.dumps(order).encode(), json.dumps({**order, "more": 1}).encode()):
            for peer in ("10.1.2.3", "127.0.0.1"):
                answers.append((await call(app, Attempt(method, path, JSON, body), peer))[1].decode())
    assert len(answers) > 100
    assert [answer for answer in answers if "sekret" in answer] == []

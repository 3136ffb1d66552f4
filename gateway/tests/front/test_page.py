"""The page for people: static, without inline scripts, and in a real Chromium what a person sees and does."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from patio_gateway.front.app import build
from patio_gateway.front.page import ASSETS, asset
from patio_gateway.snapshot import Client, Decision, Model, Snapshot, Start, StartPhase, Worker
from patio_testing.model_gateway import Recorder, running_gateway, serving

from .browser import Tab, needs_chromium, opened
from .fronts import front

CLIENT = Client("team-a", "sk-team-a-0123456789")
QWEN = Model(
    *("models/qwen3-8b", ("qwen3-8b", "chat")),
    adapters=("sql", "law"),
    start=Start(StartPhase.DOWNLOADING, 34, "From the hub: 5.5 of 16.2 GB."),
)
READY = Worker("qwen3-8b-0", ("127.0.0.1", 1), frozenset({"sql"}))
OTHERS = (
    Model("models/embedder", ("embedder",), workers=(Worker("embedder-0", ("127.0.0.1", 1)),)),
    Model("models/old", ("old",), can_wake=False),
    Model("models/broken", ("broken",), start=Start(StartPhase.FAILING, None, "Image vllm:9 does not exist.")),
)
WORDS = ["It ", "is ", "<b>4</b>", "."]


def content(path: str) -> str:
    return asset(path)[0].decode()


@pytest.mark.parametrize("path", ASSETS)
async def test_page_is_open_and_says_what_it_may_load(path: str) -> None:
    async with front() as gateway:
        gateway.publish(QWEN, closed=True)
        answer = await gateway.http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == ASSETS[path][1]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "qwen" not in answer.text


def test_page_has_nothing_inline_and_nothing_from_elsewhere() -> None:
    text = content("/")
    assert re.findall(r"<script[^>]*>", text) == ['<script src="page.js" defer>']
    assert not re.search(r"\son\w+=|\sstyle=|<style", text)
    assert not re.search(r"https?:|//[a-z]", "".join(map(content, ("/", "/page.css"))))


def test_script_makes_no_html_of_text() -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", content("/page.js")
    )


def test_fields_have_labels_and_parts_have_titles() -> None:
    text = content("/")
    fields = re.findall(r'<(?:input|select|textarea) id="([\w-]+)"', text)
    assert len(fields) >= 5
    assert set(fields) <= set(re.findall(r'<label for="([\w-]+)"', text))
    ids = set(re.findall(r'id="([\w-]+)"', text))
    assert set(re.findall(r'aria-(?:labelledby|describedby)="([\w-]+)"', text)) <= ids
    assert '<html lang="en">' in text


async def chat(_: Request) -> Response:
    async def events() -> AsyncIterator[bytes]:
        for word in WORDS:
            yield f"data: {json.dumps({'choices': [{'delta': {'content': word}}]})}\n\n".encode()
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def write_picture(path: Path, picture: bytes) -> None:
    path.write_bytes(picture)


async def pictured(tab: Tab, name: str) -> None:
    """Write pictures to the folder that PATIO_TEST_PICTURES names, for people who look at them."""
    if folder := os.environ.get("PATIO_TEST_PICTURES"):
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            await tab.command("Emulation.setEmulatedMedia", features=features)
            write_picture(Path(folder, f"{name}-{scheme}.png"), await tab.picture())


@needs_chromium
async def test_page_shows_a_start_and_asks_the_model_that_wakes() -> None:
    engine = Recorder(chat)
    async with serving(engine.app()) as address, running_gateway(make_front=build) as gateway:
        await gateway.publish(Snapshot(models=(QWEN, *OTHERS), closed=False))
        async with opened(str(gateway.client.base_url)) as tab:
            await tab.sees("#models", "Downloading 34 %")
            await tab.sees("#status", "1 of 4 models ready.")
            await tab.type("#model", "qwen3-8b")
            await tab.type("#prompt", "2+2")
            await tab.value("document.querySelector('#ask').focus()")
            await tab.press("Enter", 13)
            await tab.sees("#models", "1 of 1000, oldest waits")
            await pictured(tab, "waiting")
            worker = dataclasses.replace(READY, address=address)
            await gateway.publish(
                Snapshot(models=(dataclasses.replace(QWEN, workers=(worker,)), *OTHERS), closed=False)
            )
            await tab.sees("#ask-status", "Answered by qwen3-8b-0")
            assert await tab.text("#answer") == "".join(WORDS)
            await tab.sees("#status", "2 of 4 models ready.")
            await pictured(tab, "answered")
            assert tab.errors == []
    assert json.loads(engine.received[0].body)["messages"] == [{"role": "user", "content": "2+2"}]


def with_keys(app: ASGIApp) -> ASGIApp:
    """Name the client of a key, as Envoy does."""

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (b"authorization", f"Bearer {CLIENT.key}".encode()) in scope["headers"]:
            scope = {**scope, "headers": [*scope["headers"], (b"x-patio-client", CLIENT.name.encode())]}
        await app(scope, receive, send)

    return named


@needs_chromium
async def test_page_shows_models_to_a_key_and_forgets_it() -> None:
    decision = Decision(time.time() - 90, 0, 1, "1 request waits.")
    async with front() as gateway:
        ready = dataclasses.replace(QWEN, workers=(READY,), last_decision=decision)
        gateway.publish(ready, *OTHERS, closed=True, clients=(CLIENT,))
        async with serving(with_keys(gateway.app)) as (host, port), opened(f"http://{host}:{port}/") as tab:
            await tab.sees("#status", "Enter an API key")
            await pictured(tab, "closed")
            await tab.type("#key", "sk-wrong")
            await tab.press("Enter", 13)
            await tab.sees("#status", "does not know this key")
            await tab.type("#key", CLIENT.key)
            await tab.press("Enter", 13)
            await tab.sees("#models", "qwen3-8b")
            await tab.sees("#models", "0 to 1, 2 min ago: 1 request waits.")
            await tab.value("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            await tab.sees("#models", "sql: on 1 worker")
            await pictured(tab, "models")
            assert await tab.value("document.querySelector('#key').value") == ""
            assert await tab.value("localStorage.length") == 0
            await tab.value("document.querySelector('#forget').click()")
            await tab.sees("#status", "Enter an API key")
            assert await tab.text("#models") == ""
            assert await tab.value("sessionStorage.length") == 0


@needs_chromium
async def test_page_says_that_the_gateway_is_away_and_keeps_models() -> None:
    async with (
        front(QWEN) as gateway,
        serving(gateway.app) as (host, port),
        opened(f"http://{host}:{port}/") as tab,
    ):
        await tab.sees("#models", "qwen3-8b")
        await tab.command("Network.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await tab.command("Network.emulateNetworkConditions", **offline)
        await tab.sees("#status", "The gateway does not answer")
        assert "qwen3-8b" in await tab.text("#models")
        await tab.command("Network.emulateNetworkConditions", **{**offline, "offline": False})
        await tab.sees("#status", "0 of 1 model ready.")

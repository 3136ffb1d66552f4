"""The program of requests, in a real Envoy, with what nobody means well: it never fails, and ends in time."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from patio_gateway.snapshot import Client, Model, Snapshot, Worker
from patio_testing.deadline import DEADLINE
from patio_testing.model_gateway import Gateway, Recorder, running_gateway, serving

KEY = "sk-team-a-0123456789"
PIECES = [
    *('{"model":"m"', '"messages":[', '{"role":"user","content":"', '"}', "]", "}", "{", "[", ",", ":", '"', "\\"),
    *('"assistant"', '"prompt":', "\\u0041", "\\ud83d\\ude00", "\\u", "\0", "\xff", " ", "\n", "null", "model", "1e9"),
]


def complaints(gateway: Gateway) -> list[str]:
    """Return what Envoy says of its program."""
    text = Path(gateway.listening.folder, "envoy.log").read_text()
    return [line for line in text.splitlines() if "lua" in line.lower()]


async def send(gateway: Gateway, content: bytes, **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    return await gateway.client.post(
        "/v1/chat/completions",
        content=content,
        headers=sent | {name.replace("_", "-"): value for name, value in headers.items()},
    )


async def test_program_never_fails_on_bodies_of_pieces() -> None:
    engine = Recorder()
    pieces = random.Random(20261127)
    async with serving(engine.app()) as address:
        snapshot = Snapshot(
            models=(Model("a/m", ("m",), workers=(Worker("m-0", address),)),), clients=(Client("c", KEY),)
        )
        async with running_gateway(snapshot) as gateway:
            for _ in range(300):
                chosen = pieces.choices(PIECES, k=pieces.randrange(1, 12))
                kind = pieces.choice(["application/json", "multipart/form-data; boundary=x", "text/plain", ""])
                answer = await send(gateway, "".join(chosen).encode("latin-1"), content_type=kind)
                assert answer.status_code in (200, 404), chosen
            assert complaints(gateway) == []


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic " + "A" * 8000,
        "Basic ====",
        "Basic =",
        "Bearer \xff",
        "Bearer",
        "Basic 4",
        "Negotiate x",
        "x" * 9000,
    ],
)
async def test_program_never_fails_on_credentials(authorization: str) -> None:
    async with running_gateway(Snapshot(clients=(Client("c", KEY),))) as gateway:
        answer = await gateway.client.get("/v1/models", headers={b"authorization": authorization.encode("latin-1")})
        assert answer.status_code == 401
        assert complaints(gateway) == []


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 4_000_000,
        b'{"a":' * 800_000,
        b'{"' + b"\\" * 4_000_000,
        b'{"' + b'\\"' * 2_000_000,
        b'{"messages":[' + b'{"role":"user"},' * 250_000,
        b'{"x":"' + b"y" * 4_000_000 + b'"}',
        b'""' * 2_000_000,
    ],
    ids=["brackets", "objects", "backslashes", "escapes", "messages", "text", "strings"],
)
async def test_large_hostile_body_holds_nobody_up(body: bytes) -> None:
    async with running_gateway(Snapshot(clients=(Client("c", KEY),))) as gateway:
        await send(gateway, b"{}")
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await send(gateway, body)).status_code == 404
        # A thread of Envoy reads it at once. It takes milliseconds; a search that is not linear would take minutes.
        assert loop.time() - began < DEADLINE
        assert complaints(gateway) == []


async def test_form_of_many_parts_holds_nobody_up() -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    async with running_gateway(Snapshot(clients=(Client("c", KEY),))) as gateway:
        answer = await send(gateway, part * 60_000, content_type="multipart/form-data; boundary=x")
        assert answer.status_code == 404
        assert complaints(gateway) == []


async def test_usage_of_a_hostile_answer_does_no_harm() -> None:
    texts = ['{"usage": {', '{"usage":{"prompt_tokens":99999999999999}}', '{"usage":{}}' * 1000, '"usage":{"usage":{']

    async def answer(_: Request) -> Response:
        return Response(texts[len(engine.received) - 1], media_type="application/json")

    engine = Recorder(answer)
    async with serving(engine.app()) as address:
        client = Client("c", KEY, tokens_per_minute=1_000_000)
        snapshot = Snapshot(models=(Model("a/m", ("m",), workers=(Worker("m-0", address),)),), clients=(client,))
        async with running_gateway(snapshot) as gateway:
            for text in texts:
                answered = await send(gateway, json.dumps({"model": "m"}).encode())
                assert (answered.status_code, answered.text) == (200, text)
            assert complaints(gateway) == []

"""A forwarder in the event loop of the test, and the config that upstream ships, in its fields."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from patio_gateway.forwarder.app import Limits, build
from patio_gateway.forwarder.config import Config, read_config
from patio_gateway.forwarder.relay import engine_client
from patio_testing.deadline import DEADLINE
from patio_testing.model_gateway import serving

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
UPSTREAM = b"""\
forwarder:
  sync:
    user_port: 5005
    user_hostname: "localhost"
    use_grpc: false
    predict_route: "/predict"
    healthcheck_route: "/readyz"
    batch_route: null
    model_engine_unwrap: true
    serialize_results_as_string: true
    forward_http_status: true
  stream:
    user_port: 5005
    user_hostname: "localhost"
    predict_route: "/stream"
    healthcheck_route: "/readyz"
    batch_route: null
    model_engine_unwrap: true
    serialize_results_as_string: false
  max_concurrency: 100
"""
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


def config_for(port: int, *options: str) -> Config:
    """Return upstream's config for an engine at a port, with OpenAI's two routes, and more `--set` options."""
    both = f"['{CHAT}','{COMPLETIONS}']"
    own = [
        f"forwarder.{kind}.{value}"
        for kind in ("sync", "stream")
        for value in (f"user_port={port}", "user_hostname=127.0.0.1", f"extra_routes={both}")
    ]
    return read_config(UPSTREAM, "upstream.yaml", [*own, *options], {})


@dataclass
class Forwarder:
    """A forwarder that serves, and ways to call it."""

    http: httpx.AsyncClient

    async def call(self, args: Any, path: str = CHAT, **more: Any) -> httpx.Response:
        """Send a call as Model Engine wraps it."""
        return await self.http.post(path, json={"args": args} | more)

    @asynccontextmanager
    async def stream(self, args: Any, path: str = CHAT) -> AsyncIterator[httpx.Response]:
        """Send a call for a stream; yield the answer when its head is there."""
        async with self.http.stream("POST", path, json={"args": {**args, "stream": True}}) as answer:
            yield answer


@asynccontextmanager
async def forwarder(
    port: int, *options: str, limits: Limits | None = None, silence_seconds: float = DEADLINE
) -> AsyncIterator[Forwarder]:
    """Serve a forwarder before the engine at a port."""
    app = build(config_for(port, *options), limits=limits, client=engine_client(silence_seconds))
    async with (
        app.router.lifespan_context(app),
        serving(app) as (host, own_port),
        httpx.AsyncClient(base_url=f"http://{host}:{own_port}", timeout=DEADLINE, trust_env=False) as client,
    ):
        yield Forwarder(client)


def results(text: str) -> list[Any]:
    """Return the `result` of each event of a stream, in order; fail if it has anything else."""
    *events, rest = text.split("\r\n\r\n")
    assert rest == ""
    assert all(event.startswith("data: ") for event in events)
    found = [json.loads(event.removeprefix("data: ")) for event in events]
    assert all(set(each) == {"result"} for each in found)
    return [each["result"] for each in found]


async def in_time(awaitable: Any) -> Any:
    """Return what it returns; fail after the tests' deadline."""
    async with asyncio.timeout(DEADLINE):
        return await awaitable

"""How the front is served: on a socket, over connections that Envoy keeps."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from patio_gateway.app import Knowledge, SignalFreeServer
from patio_gateway.front.app import build
from patio_gateway.front.server import config
from patio_gateway.snapshot import Snapshot
from patio_testing.deadline import DEADLINE
from patio_testing.model_gateway import until


@pytest.fixture
def socket() -> Iterator[str]:
    """Return a path that is short enough for a socket."""
    folder = tempfile.mkdtemp(prefix="front-")
    yield str(Path(folder, "front.sock"))
    shutil.rmtree(folder, ignore_errors=True)


async def test_front_is_served_on_a_socket(socket: str) -> None:
    knowledge = Knowledge()
    knowledge.publish(Snapshot())
    server = SignalFreeServer(config(build(knowledge), socket))
    serving = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started, "the front serves")
        transport = httpx.AsyncHTTPTransport(uds=socket)
        async with httpx.AsyncClient(transport=transport, base_url="http://front", timeout=DEADLINE) as client:
            answer = await client.get("/v1/models")
    finally:
        server.should_exit = True
        await serving
    assert answer.json() == {"object": "list", "data": []}
    assert "server" not in answer.headers


def test_connections_outlive_those_that_envoy_keeps(socket: str) -> None:
    assert config(build(Knowledge()), socket).timeout_keep_alive > 3600

"""Readiness is the engine's: it is looked at, in time, and not more often than needed."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import Response

from engine_double.server import running_double
from inference_server.ports import free_port
from patio_gateway.forwarder import readiness
from patio_gateway.forwarder.readiness import FRESH_SECONDS, Readiness, readiness_client
from patio_gateway.forwarder.routes import Engine
from patio_testing.model_gateway import Recorder, serving


async def test_defect_11_readiness_follows_the_engine() -> None:
    now = 0.0
    async with running_double("sglang") as double, readiness_client() as client:
        ready = Readiness(client, [(Engine("127.0.0.1", double.port), "/health")], lambda: now)
        assert await ready.reason_against() is None
        await double.crash()
        now += FRESH_SECONDS
        assert "takes no connection" in str(await ready.reason_against())
        await double.start()
        now += FRESH_SECONDS
        assert await ready.reason_against() is None
        double.fault("/health", status=503)
        now += FRESH_SECONDS
        assert "answered /health with 503." in str(await ready.reason_against())


async def test_probes_within_a_moment_share_a_look() -> None:
    engine, now = Recorder(), 0.0
    async with serving(engine.app()) as (host, port), readiness_client() as client:
        same = (Engine(host, port), "/health")
        ready = Readiness(client, [same, same], lambda: now)
        assert await asyncio.gather(*(ready.reason_against() for _ in range(20))) == [None] * 20
        assert len(engine.received) == 1
        now += FRESH_SECONDS
        await ready.reason_against()
        assert len(engine.received) == 2


async def test_two_engines_are_both_needed() -> None:
    async with running_double() as double, readiness_client() as client:
        alive, dead = Engine("127.0.0.1", double.port), Engine("127.0.0.1", free_port())
        assert dead.address in str(await Readiness(client, [(alive, "/health"), (dead, "/")]).reason_against())


async def test_engine_that_does_not_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "TIMEOUT_SECONDS", 0.05)

    async def never(_: Request) -> Response:
        await asyncio.Event().wait()
        return Response()

    async with serving(Recorder(never).app()) as (host, port), readiness_client() as client:
        reason = await Readiness(client, [(Engine(host, port), "/health")]).reason_against()
    assert "did not answer /health within 0.05 s." in str(reason)

"""Probes and metrics: open beside each other, or the metrics apart for whom is let in."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from patio_operator.telemetry import health
from patio_operator.telemetry.health import Rejection, health_application, metrics_application
from patio_operator.telemetry.metrics import Metrics
from patio_operator.telemetry.object_gauges import ObjectState
from patio_operator.webhooks import server
from patio_testing.deadline import DEADLINE
from patio_testing.operator.waiting import until


async def answers(app: web.Application, *paths: str, **headers: str) -> list[tuple[int, str, str]]:
    """Status, body and challenge of each path."""
    runner = await server.serve(app, 0)
    port = next(address[1] for address in runner.addresses if len(address) == 2)
    found: list[tuple[int, str, str]] = []
    async with aiohttp.ClientSession() as session:
        for path in paths:
            async with session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as response:
                found.append((response.status, await response.text(), response.headers.get("WWW-Authenticate", "")))
    await runner.cleanup()
    return found


@pytest.mark.parametrize("ready", [True, False])
async def test_probes_say_whether_it_runs_and_is_ready(ready: bool) -> None:
    healthz, readyz, metrics = await answers(
        health_application(lambda: ready, Metrics()), "/healthz", "/readyz", "/metrics"
    )
    assert healthz[0] == 200
    assert readyz[0] == (200 if ready else 503)
    assert "patio_operator_leader" in {family.name for family in text_string_to_metric_families(metrics[1])}


async def test_secured_metrics_are_not_beside_the_probes() -> None:
    found = await answers(health_application(lambda: True, None), "/healthz", "/metrics")
    assert [status for status, _, _ in found] == [200, 404]


@pytest.mark.parametrize("status", [401, 403, 503])
async def test_caller_that_is_not_let_in_gets_the_reason_alone(status: int) -> None:
    headers: list[str | None] = []

    async def admit(authorization: str | None) -> Rejection | None:
        headers.append(authorization)
        return Rejection(status, "Send a token.")

    app = metrics_application(Metrics(), admit)
    ((got, text, challenge),) = await answers(app, "/metrics", Authorization="Bearer x")
    assert (got, text, headers) == (status, "Send a token.\n", ["Bearer x"])
    assert challenge == ("Bearer" if status == 401 else "")


async def test_caller_that_is_let_in_gets_the_page() -> None:
    async def admit(_: str | None) -> Rejection | None:
        return None

    found = await answers(metrics_application(Metrics(), admit), "/metrics", "/healthz")
    assert [status for status, _, _ in found] == [200, 404]
    assert "patio_operator_leader 0.0" in found[0][1]


@pytest.mark.parametrize("leaves", [False, True])
async def test_caller_that_does_not_read_is_cut_off_in_silence(
    leaves: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "SEND_SECONDS", DEADLINE if leaves else 0.1)
    metrics = Metrics()
    metrics.leads(True)
    for number in range(1000):
        metrics.adapters.put("default", f"adapter-{number}", ObjectState("True", "Loaded", (1, 1, 1, 0)))
    runner = await server.serve(health_application(lambda: True, metrics), 0)
    listening = runner.server
    assert listening is not None
    port = next(address[1] for address in runner.addresses if len(address) == 2)
    loop = asyncio.get_running_loop()
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.setblocking(False)
        await loop.sock_connect(caller, ("127.0.0.1", port))
        await loop.sock_sendall(caller, b"GET /metrics HTTP/1.1\r\nHost: operator\r\n\r\n")
        assert await loop.sock_recv(caller, 1) == b"H"
        if leaves:
            caller.close()
        await until("the connection is closed", lambda: not listening.connections)
    await runner.cleanup()
    assert caplog.text == ""

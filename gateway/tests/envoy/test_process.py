"""Envoy as a process: it starts, is taken over, drains, and tells why it ended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inference_server.ports import free_port
from patio_gateway.control.bootstrap import bootstrap
from patio_gateway.envoy.admin import Admin, AdminError
from patio_gateway.envoy.process import Envoy, EnvoyFailedError
from patio_gateway.envoy.program import find_envoy
from patio_gateway.snapshot import Model, Snapshot, Worker
from patio_testing.model_gateway import Gateway, Recorder, running_gateway, serving, until


@asynccontextmanager
async def request_on_its_way(
    release: asyncio.Event,
) -> AsyncIterator[tuple[Gateway, Snapshot, asyncio.Task[httpx.Response]]]:
    """Run a gateway whose engine answers a request when it is released; yield it, what it knows, and the request."""

    async def wait(_: Request) -> Response:
        await release.wait()
        return JSONResponse({})

    engine = Recorder(wait)
    async with serving(engine.app()) as address:
        snapshot = Snapshot(closed=False, models=(Model("a/m", ("m",), workers=(Worker("m-0", address),)),))
        async with running_gateway(snapshot) as gateway:
            asking = asyncio.create_task(gateway.ask("/v1/completions", {"model": "m"}))
            await until(lambda: engine.received, "the engine has the request")
            yield gateway, snapshot, asking


async def test_envoy_that_runs_is_taken_over_undisturbed() -> None:
    release = asyncio.Event()
    async with request_on_its_way(release) as (gateway, snapshot, asking):
        second = Envoy(find_envoy(None), Path(gateway.listening.folder), gateway.admin, threads=1)
        await second.start(bootstrap(gateway.listening), gateway.listening.listen)
        before = await gateway.admin.versions()
        await gateway.publish(snapshot)
        assert second.adopted
        assert await gateway.admin.versions() == before
        release.set()
        assert (await asking).status_code == 200


async def test_envoy_is_replaced_if_its_settings_changed() -> None:
    async with running_gateway(Snapshot(closed=False)) as gateway:
        second = Envoy(find_envoy(None), Path(gateway.listening.folder), gateway.admin, threads=1)
        await second.start(bootstrap(replace(gateway.listening, most_body=2 * 1024**2)), gateway.listening.listen)
        assert not second.adopted
        with pytest.raises(EnvoyFailedError):
            gateway.envoy.check()
        answer = await gateway.ask("/v1/completions", {"text": "x" * 3_000_000})
        assert answer.status_code == 413
        await second.stop(0)


async def test_stop_waits_for_requests_on_their_way() -> None:
    release = asyncio.Event()
    async with request_on_its_way(release) as (gateway, _, asking):
        stopping = asyncio.create_task(gateway.envoy.stop(60))
        await asyncio.wait([stopping, asking], timeout=0.3)
        assert not stopping.done()
        release.set()
        assert (await asking).status_code == 200
        await stopping
        with pytest.raises(EnvoyFailedError):
            gateway.envoy.check()


async def test_stop_ends_after_its_time_with_requests_left() -> None:
    async with request_on_its_way(asyncio.Event()) as (gateway, _, asking):
        await gateway.envoy.stop(0.1)
        with pytest.raises(httpx.TransportError):
            await asking


async def test_envoy_that_refuses_its_bootstrap_says_why(tmp_path: Path) -> None:
    async with Admin(str(tmp_path / "admin.sock")) as admin:
        envoy = Envoy(find_envoy(None), tmp_path, admin, threads=1)
        with pytest.raises(EnvoyFailedError, match="no_such_field"):
            await envoy.start({"no_such_field": 1}, ("127.0.0.1", free_port()))


async def test_port_of_another_gateway_is_not_shared(tmp_path: Path) -> None:
    # Both of them would ask the kernel to share it, and it would.
    async with running_gateway() as gateway, Admin(str(tmp_path / "admin.sock")) as admin:
        envoy = Envoy(find_envoy(None), tmp_path, admin, threads=1)
        with pytest.raises(EnvoyFailedError, match="cannot listen"):
            await envoy.start({}, gateway.listening.listen)


async def test_envoy_that_was_killed_is_noticed() -> None:
    async with running_gateway() as gateway:
        gateway.envoy.signal(signal.SIGKILL)

        def ended() -> bool:
            try:
                gateway.envoy.check()
            except EnvoyFailedError:
                return True
            return False

        await until(ended, "its end is noticed")
        with pytest.raises(AdminError, match="did not answer"):
            await gateway.admin.versions()
        assert not await gateway.admin.serves()


async def test_end_of_an_envoy_that_was_taken_over_is_noticed() -> None:
    async with running_gateway() as gateway:
        second = Envoy(find_envoy(None), Path(gateway.listening.folder), gateway.admin, threads=1)
        await second.start(bootstrap(gateway.listening), gateway.listening.listen)
        watching = asyncio.create_task(second.watch())
        gateway.envoy.signal(signal.SIGKILL)
        with pytest.raises(EnvoyFailedError, match="was running already"):
            await asyncio.wait_for(watching, 60)


async def test_file_that_envoy_refuses_is_told_and_the_old_stays() -> None:
    engine = Recorder()
    async with serving(engine.app()) as address:
        good = Model("a/m", ("m",), workers=(Worker("m-0", address),))
        async with running_gateway(Snapshot(closed=False, models=(good,))) as gateway:
            bad = replace(good, workers=(Worker("m-1", ("not an address", 1)),))
            await gateway.control.publish(Snapshot(closed=False, models=(bad,)))
            assert sum((await gateway.admin.rejected()).values()) >= 1
            answer = await gateway.ask("/v1/completions", {"model": "m"})
    assert answer.headers["x-patio-pod"] == "m-0"

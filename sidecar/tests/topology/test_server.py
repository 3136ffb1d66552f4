"""Sidecars of both sides of the topology, in one process: a router double, the sidecar beside it, and pods."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_double import running_double
from patio.adapters.store import Store
from patio.app import assemble
from patio.settings import Settings, read_settings
from patio.topology.registered_worker import Worker
from patio.topology.settings import Endpoint, Role, TopologySettings
from patio_protocol.client import SidecarClient
from patio_protocol.engines import EngineKind
from patio_protocol.errors import RejectedError
from patio_protocol.topology import LeaseRequest, TopologyReport
from patio_testing.sidecar.builders import eventually
from patio_testing.sidecar.router_double import RouterDouble

ROUTER = "http://router"
SERVER = "http://server"
NOWHERE = "http://127.0.0.1:9"
BEAT = 0.3
Mounts = dict[str, httpx.AsyncBaseTransport | None]


def to_router(double: RouterDouble) -> Mounts:
    return {"all://router": httpx.ASGITransport(app=double.app)}


@contextlib.asynccontextmanager
async def running(topology: TopologySettings, mounts: Mounts, **settings: Any) -> AsyncIterator[httpx.ASGITransport]:
    """Run a sidecar; yield how to reach it."""
    sidecar_settings = Settings(**{"engine_endpoint": NOWHERE, "topology": topology, **settings})
    async with httpx.AsyncClient(mounts=mounts) as http:
        parts = assemble(sidecar_settings, Store(None), http, asyncio.Event())
        task = asyncio.create_task(parts.run())
        try:
            yield httpx.ASGITransport(app=parts.app)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await parts.close()


def server_settings(folder: Path | None = None) -> TopologySettings:
    return TopologySettings(
        enabled=True,
        role=Role.SERVER,
        endpoints=(Endpoint((ROUTER,)),),
        lease_file=None if folder is None else folder / "leases.json",
    )


def client_settings(url: str, endpoint: str, **fields: Any) -> TopologySettings:
    return TopologySettings(
        enabled=True,
        endpoints=(Endpoint((endpoint,), may_be_server=True),),
        worker=Worker(url, **fields),
        lease_id="pod-0.team-a",
        heartbeat=BEAT,
    )


@contextlib.asynccontextmanager
async def client_of(transport: httpx.ASGITransport) -> AsyncIterator[SidecarClient]:
    async with httpx.AsyncClient(transport=transport) as http:
        yield SidecarClient(SERVER, http)


async def reaches(client: SidecarClient, state: str, reason: str | None = None) -> TopologyReport:
    last: TopologyReport | None = None

    async def check() -> bool:
        nonlocal last
        last = await client.topology()
        (registration,) = last.registrations or [lease.registration for lease in last.leases]
        return registration.state == state and reason in (None, registration.reason)

    try:
        await eventually(check, f"{state} {reason or ''}")
    except AssertionError as error:
        raise AssertionError(f"{error}; {last}") from None
    assert last is not None
    return last


@pytest.mark.parametrize("host", ["router", "server"])
async def test_pod_registers_with_ready_engine_and_leaves_with_it(host: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_double())
        url = str(engine)
        double = RouterDouble("smg", alive={url}, at_once=False, key="router-sekret")
        mounts = to_router(double)
        if host == "server":
            settings = replace(server_settings(), router_key="router-sekret")
            server = await stack.enter_async_context(running(settings, mounts))
            mounts = {"all://server": httpx.ASGITransport(app=server.app, client=("10.0.0.99", 1234))}
        topology = client_settings(url, f"http://{host}", api_key="engine-sekret")
        topology = replace(topology, router_key="router-sekret")
        pod = await stack.enter_async_context(running(topology, mounts, engine=EngineKind.VLLM, engine_endpoint=url))
        client = await stack.enter_async_context(client_of(pod))
        await reaches(client, "Pending", "Accepted")
        assert not (await client.topology()).registered
        double.finish()
        report = await reaches(client, "Registered")
        assert (report.role, report.registered, report.registrations[0].router) == ("client", True, f"http://{host}")
        assert report.registrations[0].worker_id in double.workers
        assert report.registrations[0].verified is not None
        assert double.orders() == [{"url": url, "worker_type": "regular", "api_key": "engine-sekret"}]
        text = (await client._http.get("http://pod/metrics")).text
        assert f'patio:topology_registered{{router="http://{host}"}} 1.0' in text

        await engine.crash()
        await reaches(client, "Leaving", "WorkerDraining")
        double.finish()
        await reaches(client, "NotRegistered", "EngineNotReady")


async def test_sidecar_without_leases_differs_from_one_with_them() -> None:
    async with (
        running_double() as engine,
        running(TopologySettings(), {}) as other,
        running(
            client_settings(str(engine), SERVER),
            {"all://server": other},
            engine_endpoint=str(engine),
            engine=EngineKind.VLLM,
        ) as pod,
        client_of(pod) as client,
    ):
        report = await reaches(client, "Failed", "NoLeaseServer")
        assert "TOPO_ROLE=server" in report.registrations[0].message


async def test_without_topology_report_is_empty_and_no_lease_is_taken() -> None:
    async with running(TopologySettings(), {}) as sidecar, client_of(sidecar) as client:
        assert await client.topology() == TopologyReport()
        with pytest.raises(RejectedError) as raised:
            await client.renew_lease("a", LeaseRequest(url="http://a:1", seconds=1))
        assert raised.value.status == 404


async def test_sidecar_without_router_works_and_says_what_to_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = read_settings([], {"TOPO_TYPE": "SGLang"}).topology
    async with (
        running_double() as engine,
        running(settings, {}, engine=EngineKind.VLLM, engine_endpoint=str(engine)) as sidecar,
        client_of(sidecar) as client,
    ):
        report = await client.topology()
        assert (report.role, report.registered, report.reason) == ("client", False, "NotConfigured")
        assert "ROUTER_ROLE_NAME" in report.message

        async def ready() -> bool:
            return (await client.ready()).ready

        await eventually(ready, "ready without a router")
        assert "patio:engine_up 1.0" in (await client._http.get("http://sidecar/metrics")).text
        assert (await client.drain(0.5)).unregistered
    assert [record.levelname for record in caplog.records if "NotConfigured" in record.getMessage()] == ["WARNING"]


async def test_beside_a_router_no_engine_adapter_or_drain_exists() -> None:
    double = RouterDouble("smg")
    async with running(server_settings(), to_router(double)) as sidecar, client_of(sidecar) as client:

        async def ready() -> bool:
            return (await client.ready()).ready

        await eventually(ready, "ready with the router")
        assert "patio:engine_up 1.0" in (await client._http.get("http://sidecar/metrics")).text
        for call in (client.adapters(), client.drain(0)):
            with pytest.raises(RejectedError) as raised:
                await call
            assert raised.value.status == 404


async def test_lease_is_kept_renewed_released_and_runs_out(tmp_path: Path) -> None:
    double = RouterDouble("sglang-router", alive={"http://a:1", "http://b:1", "http://hand:1"})
    async with running(server_settings(tmp_path), to_router(double)) as sidecar, client_of(sidecar) as client:
        await client._http.post("http://sidecar/nowhere")
        manual_client = httpx.AsyncClient(transport=httpx.ASGITransport(app=double.app), base_url=ROUTER)
        await manual_client.post("/workers", json={"url": "http://hand:1"})
        await manual_client.aclose()
        lease = LeaseRequest(url="http://a:1", seconds=0.4, api_key="engine-sekret")
        await client.renew_lease("a", lease)
        await client.renew_lease("b", LeaseRequest(url="http://b:1", seconds=600))
        await eventually(lambda: is_listed(double, "http://hand:1", "http://a:1", "http://b:1"), "both are listed")
        assert "engine-sekret" not in (tmp_path / "leases.json").read_text()
        await eventually(lambda: is_listed(double, "http://hand:1", "http://b:1"), "a ran out")
        assert [lease_report.id for lease_report in (await client.topology()).leases] == ["b"]
        leaving = await client.release_lease("b")
        assert leaving is not None
        assert leaving.state == "Leaving"

        async def has_left() -> bool:
            return await client.release_lease("b") is None

        await eventually(has_left, "b has left")
        assert await is_listed(double, "http://hand:1")


async def is_listed(double: RouterDouble, *urls: str) -> bool:
    return set(double.listed()) == set(urls)


async def test_leases_outlive_the_sidecar_unrenewed_ones_are_removed(tmp_path: Path) -> None:
    double = RouterDouble("sglang-router", alive={"http://a:1", "http://b:1"})
    async with running(server_settings(tmp_path), to_router(double)) as sidecar, client_of(sidecar) as client:
        for name in "ab":
            await client.renew_lease(name, LeaseRequest(url=f"http://{name}:1", seconds=1.0))
        await eventually(lambda: is_listed(double, "http://a:1", "http://b:1"), "both are listed")
    orders = len(double.orders())
    async with running(server_settings(tmp_path), to_router(double)) as sidecar, client_of(sidecar) as client:

        async def are_known() -> bool:
            return len((await client.topology()).leases) == 2

        await eventually(are_known, "both leases are known")
        await client.renew_lease("b", LeaseRequest(url="http://b:1", seconds=600))
        await eventually(lambda: is_listed(double, "http://b:1"), "nobody renewed a")
    assert len(double.orders()) == orders


async def test_leases_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patio.topology.server.MOST_LEASES", 2)
    double = RouterDouble("smg", alive={"http://a:1"})
    async with running(server_settings(tmp_path), to_router(double)) as sidecar, client_of(sidecar) as client:
        for name in "ab":
            await client.renew_lease(name, LeaseRequest(url=f"http://{name}:1", seconds=60))
        with pytest.raises(RejectedError) as raised:
            await client.renew_lease("c", LeaseRequest(url="http://c:1", seconds=60))
        assert (raised.value.status, raised.value.code, raised.value.retryable) == (429, "TooManyLeases", True)
        await client.renew_lease("a", LeaseRequest(url="http://a:1", seconds=60))
        await client.release_lease("b")
        await client.renew_lease("c", LeaseRequest(url="http://c:1", seconds=60))


async def test_broken_lease_file_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "leases.json").write_text("{")
    double = RouterDouble("smg", alive={"http://a:1"})
    async with running(server_settings(tmp_path), to_router(double)) as sidecar, client_of(sidecar) as client:
        await client.renew_lease("a", LeaseRequest(url="http://a:1", seconds=60))
        await eventually(lambda: is_listed(double, "http://a:1"), "a is listed")


@pytest.mark.parametrize("key", [None, "right-sekret"])
async def test_other_pods_lease_with_routers_key_and_change_no_more(key: str | None) -> None:
    double = RouterDouble("smg", alive={"http://a:1"}, key=key)
    settings = replace(server_settings(), router_key=key)
    lease = LeaseRequest(url="http://a:1", seconds=60).model_dump(mode="json")
    async with running(settings, to_router(double)) as sidecar:
        outside = httpx.ASGITransport(app=sidecar.app, client=("10.0.0.99", 1234))
        async with httpx.AsyncClient(transport=outside, base_url=SERVER) as http:
            if key is not None:
                for method in ("PUT", "DELETE"):
                    for authorization in (None, "Bearer wrong", "Bearer \xe9", key):
                        headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
                        response = await http.request(method, "/v1/topology/leases/a", json=lease, headers=headers)
                        assert (response.status_code, response.json()["error"]["code"]) == (401, "RouterKeyWrong")
                        assert "sekret" not in response.text
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            assert (await http.put("/v1/topology/leases/a", json=lease, headers=headers)).status_code == 200
            await eventually(lambda: is_listed(double, "http://a:1"), "a is listed")
            assert (await http.post("/v1/load_lora_adapter", json={}, headers=headers)).status_code == 401
            assert (await http.get("/v1/topology")).status_code == 200


@pytest.mark.parametrize(
    ("lease_id", "body"),
    [
        ("a", {"url": "ftp://a", "seconds": 1}),
        ("a", {"url": "http://a/b", "seconds": 1}),
        ("a", {"url": "http://a:1", "seconds": 0}),
        ("a", {"url": "http://a:1", "seconds": 1, "worker_type": "boss"}),
        ("a", {"url": "http://a:1", "seconds": 1, "bootstrap_port": 0}),
        ("a%20b", {"url": "http://a:1", "seconds": 1}),
        ("a", {"url": "http://a:1", "seconds": 1, "secs": 2}),
    ],
)
async def test_wrong_leases_are_rejected(lease_id: str, body: dict[str, Any]) -> None:
    async with running(server_settings(), to_router(RouterDouble("smg"))) as sidecar, client_of(sidecar) as client:
        answer = await client._http.put(f"http://sidecar/v1/topology/leases/{lease_id}", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequest")
        assert (await client.topology()).leases == ()

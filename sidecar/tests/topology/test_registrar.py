"""Registering with a router: against the double, in one process, round by round."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from patio.topology import routers
from patio.topology.factory import open_client
from patio.topology.lease_file import LeaseFile
from patio.topology.planner import Condition
from patio.topology.registered_worker import Kind, Worker
from patio.topology.registrar import Registrar, Round
from patio.topology.registration import LeasedRegistration
from patio.topology.routers import LARGEST, Router, RouterError
from patio.topology.server import TopologyServer
from patio.topology.settings import Endpoint, TopologySettings
from patio_protocol import client as client_module
from patio_protocol.client import SidecarClient
from patio_protocol.errors import RejectedError, UnreachableError
from patio_protocol.topology import LeaseRequest
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import eventually
from patio_testing.sidecar.engine_stand_ins import answering
from patio_testing.sidecar.router_double import RouterDouble

URL = "http://10.0.0.1:8000"
WORKER = Worker(URL)
PREFILL = Worker(URL, Kind.PREFILL, 34000, api_key="engine-sekret")
BOTH = pytest.mark.parametrize("kind", ["sglang-router", "smg"])


@dataclass
class RouterSetup:
    double: RouterDouble
    registrar: Registrar
    faults: Counter[str] = field(default_factory=Counter)

    async def round(self, *workers: Worker) -> Round:
        return await self.registrar.round({worker.url: worker for worker in workers})

    async def condition(self, *workers: Worker) -> Condition:
        passed = await self.round(*workers)
        return passed.conditions[URL]


@contextlib.asynccontextmanager
async def router_setup(kind: str, key: str | None = None, **double: object) -> AsyncIterator[RouterSetup]:
    router = RouterDouble(kind, alive={URL})
    for name, value in double.items():
        setattr(router, name, value)
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {"all://router": httpx.ASGITransport(app=router.app)}
    async with httpx.AsyncClient(mounts=mounts) as http:
        faults: Counter[str] = Counter()
        router_client = Router(Endpoint(("http://router",)), http, key)

        def count(reason: str) -> None:
            faults[reason] += 1

        yield RouterSetup(router, Registrar(router_client, 30.0, random.Random(1), count), faults)


@BOTH
async def test_accepted_is_not_registered_before_the_router_lists_it(kind: str) -> None:
    async with router_setup(kind, at_once=False) as setup:
        assert (await setup.condition(WORKER)).state == "Pending"
        pending = await setup.round(WORKER)
        assert (pending.conditions[URL].state, pending.conditions[URL].reason) == ("Pending", "Accepted")
        assert pending.pause < 1
        setup.double.finish()
        listed = await setup.round(WORKER)
        assert (listed.conditions[URL].state, listed.conditions[URL].reason) == ("Registered", "Listed")
        assert 18 <= listed.pause <= 27
        assert len(setup.double.orders()) == 1


@BOTH
async def test_heartbeats_read_and_order_nothing(kind: str) -> None:
    async with router_setup(kind) as setup:
        for _ in range(20):
            await setup.round(WORKER)
        assert len(setup.double.orders()) == 1
        assert {method for method, _, _ in setup.double.requests} == {"GET", "POST"}


@BOTH
async def test_restarted_router_is_registered_with_at_next_reading(kind: str) -> None:
    async with router_setup(kind) as setup:
        await setup.round(WORKER)
        assert (await setup.condition(WORKER)).state == "Registered"
        setup.double.forget()
        await setup.round(WORKER)
        assert (await setup.condition(WORKER)).state == "Registered"
        assert len(setup.double.orders()) == 2
        assert not setup.faults


@BOTH
async def test_registration_of_an_earlier_life_is_kept_as_it_is(kind: str) -> None:
    async with router_setup(kind) as setup:
        await setup.round(WORKER)
        restarted = Registrar(setup.registrar.router, 30.0, random.Random(1), lambda _: None)
        assert (await restarted.round({URL: WORKER})).conditions[URL].state == "Registered"
        assert len(setup.double.orders()) == 1


@BOTH
async def test_same_order_in_progress_for_another_is_awaited(kind: str) -> None:
    async with router_setup(kind, at_once=False) as setup:
        await setup.round(WORKER)
        restarted = Registrar(setup.registrar.router, 30.0, random.Random(1), lambda _: None)
        await restarted.round({URL: WORKER})
        assert (await restarted.round({URL: WORKER})).conditions[URL].reason == "Accepted"
        setup.double.finish()
        assert (await restarted.round({URL: WORKER})).conditions[URL].state == "Registered"


@BOTH
async def test_another_kind_is_removed_then_registered(kind: str) -> None:
    async with router_setup(kind, pairs=True) as setup:
        await setup.round(WORKER)
        await setup.round(WORKER)
        assert (await setup.condition(PREFILL)).reason == "Replacing"
        await setup.round(PREFILL)
        setup.double.finish()
        await setup.round(PREFILL)
        assert (await setup.condition(PREFILL)).state == "Registered"
        assert setup.double.listed()[URL].body == {
            "url": URL,
            "worker_type": "prefill",
            "bootstrap_port": 34000,
            "api_key": "engine-sekret",
        }


@BOTH
async def test_leaving_ends_when_router_forgot_or_drains(kind: str) -> None:
    async with router_setup(kind) as setup:
        await setup.round(WORKER)
        assert (await setup.condition()).state == "Leaving"
        condition = await setup.condition()
        assert condition.out
        assert condition.state == ("Leaving" if kind == "smg" else "NotRegistered")
        setup.double.finish()
        if kind == "smg":
            assert (await setup.condition()).state == "NotRegistered"
        assert (await setup.round()).conditions == {}


@BOTH
async def test_worker_leaving_while_added_is_removed_once_listed(kind: str) -> None:
    async with router_setup(kind, at_once=False) as setup:
        await setup.round(WORKER)
        for _ in range(2):
            condition = await setup.condition()
            assert (condition.state, condition.reason, condition.out) == ("Leaving", "Accepted", False)
        setup.double.finish()
        await setup.round()
        assert (await setup.condition()).out


@BOTH
async def test_worker_leaving_while_its_addition_fails_is_out(kind: str) -> None:
    async with router_setup(kind, at_once=False) as setup:
        await setup.round(WORKER)
        setup.double.fail("no")
        assert (await setup.condition()).state == "NotRegistered"
        assert not setup.faults


@BOTH
async def test_workers_of_others_and_held_ones_are_left_alone(kind: str) -> None:
    other, kept = Worker("http://10.0.0.9:8000"), Worker("http://10.0.0.8:8000")
    async with router_setup(kind, alive={URL, other.url, kept.url}) as setup:
        await setup.registrar.router.add(other)
        await setup.round(WORKER, kept)
        await setup.registrar.round({}, held={kept.url})
        await setup.registrar.round({}, held={kept.url})
        listed = {url for url, worker in setup.double.listed().items() if worker.status == "ready"}
        assert listed == {other.url, kept.url}


@BOTH
@pytest.mark.parametrize("regular", [False, True])
async def test_router_in_the_wrong_mode_is_found_out_once(kind: str, regular: bool) -> None:
    async with router_setup(kind, pairs=regular) as setup:
        worker = WORKER if regular else PREFILL
        await setup.round(worker)
        for _ in range(5):
            condition = await setup.condition(worker)
            assert (condition.state, condition.reason) == ("Failed", "RouterModeMismatch")
            assert "--pd-disaggregation" in condition.message
        assert len(setup.double.orders()) == 1
        assert setup.faults == {"RouterModeMismatch": 1}


@BOTH
async def test_regular_worker_is_taken_once_router_mode_matches(kind: str) -> None:
    async with router_setup(kind, pairs=True) as setup:
        await setup.round(WORKER)
        assert (await setup.condition(WORKER)).reason == "RouterModeMismatch"
        setup.double.pairs = False
        assert (await setup.condition(WORKER)).state == "Registered"


async def test_request_a_router_rejected_goes_to_its_successor_at_once() -> None:
    async with router_setup("smg") as setup:
        setup.double.refuse = True
        await setup.round(WORKER)
        assert (await setup.condition(WORKER)).state == "Failed"
        setup.double.broken = PlainTextResponse("", 503)
        await setup.round(WORKER)
        setup.double.broken, setup.double.refuse = None, False
        await setup.round(WORKER)
        assert (await setup.condition(WORKER)).state == "Registered"


@BOTH
async def test_failed_addition_is_reported_by_the_router_and_retried(kind: str) -> None:
    async with router_setup(kind, at_once=False) as setup:
        await setup.round(WORKER)
        setup.double.fail("Step failed: detect_connection_mode")
        for _ in range(3):
            round_result = await setup.round(WORKER)
            assert round_result.conditions[URL].reason == "RouterError"
            assert ("detect_connection_mode" if kind != "smg" else "forgotten") in round_result.conditions[URL].message
        assert 0.1 <= round_result.pause <= 0.7
        assert len(setup.double.orders()) == 1


@BOTH
async def test_order_lost_by_router_causes_no_storm(kind: str) -> None:
    async with router_setup(kind, at_once=False) as setup:
        for _ in range(5):
            await setup.round(WORKER)
            setup.double.forget()
        assert len(setup.double.orders()) == 1
        assert setup.faults == {"RouterError": 1}


@BOTH
async def test_key_that_is_missing_or_wrong_is_named_and_kept_secret(kind: str) -> None:
    async with router_setup(kind, key="wrong-sekret") as setup:
        setup.double.key = "right-sekret"
        condition = await setup.condition(WORKER)
        assert (condition.state, condition.reason) == ("Failed", "RouterUnauthorized")
        assert "SGL_ROUTER_API_KEY" in condition.message
        assert "sekret" not in condition.message
    async with router_setup(kind, key="right-sekret") as setup:
        setup.double.key = "right-sekret"
        await setup.round(WORKER)
        assert (await setup.condition(WORKER)).state == "Registered"


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (PlainTextResponse("", 404), "Failed", "RouterRejected"),
        (PlainTextResponse("<html>", 200), "Failed", "RouterRejected"),
        (JSONResponse({"workers": None}), "Failed", "RouterRejected"),
        (JSONResponse({"error": "no"}, 422), "Failed", "RouterRejected"),
        (PlainTextResponse("", 503), "Pending", "RouterError"),
        (PlainTextResponse("", 429), "Pending", "RouterError"),
    ],
)
async def test_other_answers_are_distinguished_by_being_retryable(answer: Response, state: str, reason: str) -> None:
    async with router_setup("smg", broken=answer) as setup:
        condition = await setup.condition(WORKER)
        assert (condition.state, condition.reason) == (state, reason)
        setup.double.broken = None
        await setup.round(WORKER)
        assert (await setup.condition(WORKER)).state == "Registered"


async def test_invalid_worker_is_rejected_permanently() -> None:
    async with router_setup("smg") as setup:
        bad = Worker("ftp://10.0.0.1")
        for _ in range(3):
            round_result = await setup.round(bad)
        assert (round_result.conditions[bad.url].state, round_result.conditions[bad.url].reason) == (
            "Failed",
            "RouterRejected",
        )
        assert "Invalid value" in round_result.conditions[bad.url].message
        assert round_result.pause > 18
        assert len(setup.double.orders()) == 1


async def test_router_is_sought_under_names_of_both_upstream_versions() -> None:
    double = RouterDouble("sglang-router", alive={URL})
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {"all://old": httpx.ASGITransport(app=double.app)}
    async with httpx.AsyncClient(mounts=mounts) as http:
        endpoint = Endpoint(("http://127.0.0.1:9", "http://old"))
        registrar = Registrar(Router(endpoint, http, None), 30.0, random.Random(1), lambda _: None)
        await registrar.round({URL: WORKER})
        assert (await registrar.round({URL: WORKER})).conditions[URL].state == "Registered"
        assert registrar.router.name == "http://127.0.0.1:9"


async def test_silent_router_is_polled_every_few_seconds() -> None:
    async with httpx.AsyncClient() as http:
        faults: list[str] = []
        router = Router(Endpoint(("http://127.0.0.1:9",)), http, None)
        registrar = Registrar(router, 30.0, random.Random(1), faults.append)
        rounds = [await registrar.round({URL: WORKER}) for _ in range(8)]
        assert [round_result.conditions[URL].state for round_result in rounds] == ["Pending"] * 5 + ["Failed"] * 3
        assert rounds[0].conditions[URL].reason == "RouterUnreachable"
        assert rounds[0].pause < 1 < 5 <= rounds[-1].pause < 7
        assert not any(round_result.reached for round_result in rounds)
        assert faults == ["RouterUnreachable"]


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), "RouterUnreachable"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "RouterUnreachable"),
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), "RouterError"),
        (OSError(errno.EMFILE, "Too many open files"), "RouterError"),
    ],
)
async def test_only_failed_connections_make_a_router_unreachable(cause: OSError, reason: str) -> None:
    def raise_error(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("All connection attempts failed") from cause

    async with httpx.AsyncClient(transport=httpx.MockTransport(raise_error)) as http:
        router = Router(Endpoint(("http://router",)), http, None)
        with pytest.raises(RouterError) as raised:
            await router.workers()
        assert raised.value.rejection.reason == reason
        leased = LeasedRegistration(
            Endpoint(("http://router",)), http, TopologySettings(), random.Random(1), lambda reason: None
        )
        assert (await leased.step(None)).condition.reason == reason


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Response(b"x" * (LARGEST + 1)), "RouterError"),
        (Response(b'{"workers": ' + DEEP), "RouterRejected"),
        (Response(b"x" * LARGEST), "RouterRejected"),
        (Response(status_code=307, headers={"location": "http://elsewhere/"}), "RouterError"),
    ],
    ids=["large", "deep", "at the limit", "redirect"],
)
async def test_what_a_router_answers_is_bounded(answer: Response, reason: str) -> None:
    async with router_setup("smg", broken=answer) as setup:
        condition = await setup.condition(WORKER)
        assert condition.reason == reason
        assert len(condition.message) < 1000


async def test_one_worker_that_can_not_be_read_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    readable = {"id": "a/../b", "url": URL, "worker_type": "regular", "is_healthy": True}
    unreadable = [None, "x", {"id": 7}, {"id": "x" * 300, "url": "http://x"}, {"id": "x", "url": "x" * 3000}]
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["raw_path"].decode())
        listed = scope["path"] == "/workers"
        answer = JSONResponse({"workers": [*unreadable, readable]} if listed else {}, 200 if listed else 404)
        await answer(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as http:
        router = Router(Endpoint(("http://router",)), http, None)
        for _ in range(2):
            assert list(await router.workers()) == [URL]
        assert await router.worker("a/../b?c#d") is None
    assert paths[-1] == "/workers/a%2F..%2Fb%3Fc%23d"
    assert len(caplog.records) == 1


async def test_router_that_drips_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(client_module, "CONNECT_SECONDS", 0.2)
    test_ended = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while not test_ended.is_set():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient() as http, asyncio.timeout(DEADLINE):
        with pytest.raises(RouterError) as raised:
            await Router(Endpoint((url,)), http, None).workers()
        assert raised.value.rejection.reason == "RouterUnreachable"
        with pytest.raises(UnreachableError):
            await SidecarClient(url, http).topology()
    test_ended.set()
    server.close()


async def test_key_that_is_no_header_is_not_repeated() -> None:
    async with httpx.AsyncClient() as http:
        router = Router(Endpoint(("http://127.0.0.1:9",)), http, "sekret\nword")
        with pytest.raises(RouterError) as raised:
            await router.workers()
    assert "sekret" not in raised.value.rejection.message


async def test_sidecars_answer_is_bounded() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/ready":
            return httpx.Response(307, headers={"location": "http://elsewhere/"})
        return httpx.Response(200, content=b"[" * (client_module.LARGEST + 1))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), follow_redirects=True) as http:
        client = SidecarClient("http://other", http)
        for call in (client.topology, client.ready):
            with pytest.raises(RejectedError) as raised:
                await call()
            assert raised.value.code == "UnreadableAnswer"


async def test_worker_that_has_left_is_dropped_without_a_request() -> None:
    async with router_setup("smg") as setup:
        server = TopologyServer(setup.registrar, LeaseFile(None), None)
        running = asyncio.create_task(server.run())
        for number in range(5):
            server.renew(f"pod-{number}", LeaseRequest(url=f"http://10.0.1.{number}:8000", seconds=60))
            server.release(f"pod-{number}")
        assert len(server._leaving) == 5

        async def is_dropped() -> bool:
            return not server._leaving

        await eventually(is_dropped, "their pods never ask again")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_no_call_waits_for_a_place_in_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    # httpcore 1 keeps a connection that it gave to a waiting request just when that was given up, and never uses it.
    monkeypatch.setattr("patio.topology.routers.ANSWER_SECONDS", 60.0)
    arrivals = asyncio.Semaphore(0)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrivals.release()
        await reader.read()

    async with answering(answer) as port, asyncio.timeout(DEADLINE):
        endpoint = Endpoint((f"http://127.0.0.1:{port}",))
        async with open_client([endpoint]) as http:
            router = Router(endpoint, http, None)
            calls = [asyncio.create_task(router.workers()) for _ in range(150)]
            for _ in calls:
                await arrivals.acquire()
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

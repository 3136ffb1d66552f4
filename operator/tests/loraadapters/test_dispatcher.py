"""Orders to sidecars: what is refused, what never arrived, what was taken; and that a Secret leaves no trace."""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from benchmarks.simulated_sidecars import SimulatedFleet, SimulatedSidecar
from patio.credentials.sealing import Sealing
from patio_kube.runtime import task_pool
from patio_operator.loraadapters import dispatcher
from patio_operator.loraadapters.dispatcher import Dispatcher, SecretValues
from patio_operator.loraadapters.handshake import Handshakes
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.plan import Load, Unload
from patio_operator.loraadapters.planner.selection import load_request
from patio_operator.pods.engine_pod import EnginePod
from patio_operator.security.token_reviews import TokenReviewError
from patio_protocol.adapters import ErrorDetail, LoadRequest, UnloadRequest
from patio_protocol.credentials import TOKEN_MISSING
from patio_testing.operator.builders import NOW, lora_adapter, report, review_status, seen
from patio_testing.operator.waiting import eventually

SECRET = "hf_do_not_show_me"
REQUEST = LoadRequest(lora_name="sql", source="hf://org/repo", owner="me", revision="1", wait=0)


@dataclass
class World:
    """Orders, the sidecars that get them, and a clock."""

    fleet: SimulatedFleet
    orders: Dispatcher
    now: list[datetime]
    ends: list[str]
    secrets: dict[str, SecretValues] = field(default_factory=dict)
    reviewing: TokenReviewError | None = None
    """Why no token is reviewed."""
    reviewed: list[str] = field(default_factory=list)

    async def values(self, namespace: str, name: str) -> SecretValues | None:
        return self.secrets.get(f"{namespace}/{name}")

    async def review(self, token: str) -> dict[str, Any]:
        """Answer as the API server does: a token is `token of NAMESPACE UID`."""
        self.reviewed.append(token)
        if self.reviewing is not None:
            raise self.reviewing
        *_, namespace, uid = token.split("_")
        return {"status": review_status(namespace, uid)}

    def proves(self, number: int, uid: str | None = None) -> Sealing:
        """Have a sidecar prove itself, with the token of its pod or of another one."""
        sealing = Sealing(f"uid-{number}", lambda: f"token_team_{uid or f'uid-{number}'}")
        self.sidecar(number).sealing = sealing
        return sealing

    def pod(self, number: int) -> EnginePod:
        ip = list(self.fleet.sidecars)[number]
        return EnginePod("team", f"pod-{number}", f"uid-{number}", "node-a", {}, ip, self.fleet.port)

    def sidecar(self, number: int) -> SimulatedSidecar:
        return list(self.fleet.sidecars.values())[number]


@asynccontextmanager
async def world(count: int = 1) -> AsyncIterator[World]:
    now, ends = [NOW], list[str]()
    async with SimulatedFleet(SimulatedSidecar() for _ in range(count)) as fleet, httpx.AsyncClient() as http:
        setup = World(fleet, None, now, ends)  # type: ignore[arg-type]
        handshakes = Handshakes(setup.review)
        setup.orders = Dispatcher(
            http, lambda _: httpx.Auth(), setup, handshakes, lambda: now[0], random.Random(0), ends.append
        )
        try:
            yield setup
        finally:
            await setup.orders.close()


def load(pod: EnginePod, request: LoadRequest | None = None, secret: str | None = None) -> Load:
    return Load(pod, "sql", request or load_request(lora_adapter()), "the pod does not have it", secret)


async def test_order_arrives_and_its_end_is_signalled() -> None:
    async with world(2) as setup:
        setup.orders.dispatch([load(setup.pod(0)), load(setup.pod(1))], {})
        await eventually("both are told", lambda: setup.ends, ["team", "team"])
        assert [list(setup.sidecar(number).adapters) for number in (0, 1)] == [["sql"], ["sql"]]
        setup.orders.dispatch([Unload(setup.pod(0), UnloadRequest(lora_name="sql", wait=0), "not wanted")], {})
        await eventually("it is gone", lambda: setup.sidecar(0).adapters, {})


async def test_rejection_blocks_until_its_time_and_the_next_for_longer() -> None:
    async with world() as setup:
        setup.sidecar(0).refuses = ErrorDetail(code="Busy", message="not now", retryable=True)
        order = load(setup.pod(0))
        pauses = []
        for number in range(1, 4):
            setup.orders.dispatch([order], {})
            await eventually("it was refused", lambda number=number: len(setup.ends), number)  # type: ignore[misc]
            (rejection,) = setup.orders.rejections("team", ["uid-0"]).values()
            assert (rejection.message, rejection.retryable) == ("not now", True)
            pauses.append((rejection.until - setup.now[0]).total_seconds())
            setup.now[0] = rejection.until
            (rejection,) = setup.orders.rejections("team", ["uid-0"]).values()
            assert rejection.until <= setup.now[0], "told, and no obstacle any more"
        assert 1 <= pauses[0] < 2 <= pauses[1] < 4 <= pauses[2]


async def test_rejections_of_deleted_pods_are_dropped() -> None:
    async with world() as setup:
        setup.sidecar(0).refuses = ErrorDetail(code="Conflict", message="taken", retryable=False)
        setup.orders.dispatch([load(setup.pod(0))], {})
        await eventually("it was refused", lambda: len(setup.ends), 1)
        (rejection,) = setup.orders.rejections("team", ["uid-0"]).values()
        assert rejection.until - NOW >= timedelta(minutes=1)
        assert setup.orders.rejections("team", ["uid-1"]) == {}
        assert setup.orders.rejections("team", ["uid-0"]) == {}


async def test_lost_order_is_no_rejection_and_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_pool, "FIRST_PAUSE", 0.02)
    async with world() as setup:
        pod = setup.pod(0)
        setup.fleet.kill(pod.ip or "")
        setup.orders.dispatch([load(pod)], {})
        await eventually("its end is told", lambda: len(setup.ends), 1)
        assert setup.orders.rejections("team", ["uid-0"]) == {}
        await setup.fleet.start(pod.ip or "")
        setup.orders.dispatch([load(pod)], {})
        await eventually("it arrived", lambda: list(setup.sidecar(0).adapters), ["sql"])


async def test_accepted_order_is_not_repeated_before_a_report_may_show() -> None:
    async with world() as setup:
        order, before = load(setup.pod(0)), {"uid-0": seen()}
        assert setup.orders.dispatch([order], before) is None
        await eventually("it was taken", lambda: len(setup.ends), 1)
        assert setup.orders.dispatch([order], before) == NOW + timedelta(seconds=2)
        other = order.request.model_copy(update={"revision": "another"})
        setup.orders.dispatch([load(setup.pod(0), other)], before)
        await eventually("another one is given", lambda: len(setup.ends), 2)
        after = {"uid-0": _with_revision(seen(report(other)), "b-2")}
        setup.orders.dispatch([order], after)
        await eventually("and the first, when the report changed", lambda: len(setup.ends), 3)
        setup.now[0] += timedelta(seconds=3)
        setup.orders.dispatch([order], after)
        await eventually("and when it did not for too long", lambda: len(setup.ends), 4)


async def test_secret_is_sealed_in_its_order_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with world() as setup:
        setup.proves(0)
        setup.secrets["team/hub"] = SecretValues("s-7", {"HF_AUTH_TOKEN": SECRET, "unrelated": "more"})
        setup.orders.dispatch([load(setup.pod(0), REQUEST, "hub")], {})
        await eventually("it was sent", lambda: len(setup.ends), 1)
        (opened,) = setup.sidecar(0).opened
        assert dict(opened.config or {}) == {"hf_token": SECRET}
        assert opened.credentials_revision == "s-7"
        setup.sidecar(0).refuses = ErrorDetail(code="Busy", message="not now", retryable=True)
        setup.now[0] += timedelta(seconds=3)
        setup.orders.dispatch([load(setup.pod(0), REQUEST, "hub")], {})
        await eventually("it was refused", lambda: len(setup.ends), 2)
        rejections = setup.orders.rejections("team", ["uid-0"])
        assert ("uid-0", REQUEST) in rejections
        traces = repr(rejections) + repr(setup.secrets) + caplog.text + repr(setup.sidecar(0).orders)
        assert SECRET not in traces + repr(setup.sidecar(0).bodies)
        assert len(setup.reviewed) == 1, "a proof is good for some time"


@pytest.mark.parametrize("stranger", ["older", "without a token", "with another pod's token"])
async def test_who_does_not_prove_itself_gets_no_credentials(stranger: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with world() as setup:
        if stranger == "with another pod's token":
            setup.proves(0, "uid-7")
        if stranger == "without a token":
            setup.sidecar(0).handshake_refused = ErrorDetail(code=TOKEN_MISSING, message="none", retryable=False)
        setup.secrets["team/hub"] = SecretValues("s-7", {"HF_AUTH_TOKEN": SECRET})
        for number in (1, 2):
            setup.orders.dispatch([load(setup.pod(0), REQUEST, "hub")], {})
            await eventually("it was given up", lambda number=number: len(setup.ends), number)  # type: ignore[misc]
            (rejection,) = setup.orders.rejections("team", ["uid-0"]).values()
            assert (rejection.reason, rejection.retryable) == ("SidecarUnproven", True)
            assert "Recreate the pod" in rejection.message
            setup.now[0] = rejection.until
        assert setup.sidecar(0).orders == []
        assert len(setup.sidecar(0).bodies) == 2, "two handshakes"
        sent = b"".join(setup.sidecar(0).bodies)
        assert SECRET.encode() not in sent
        assert base64.b64encode(SECRET.encode()) not in sent
        assert SECRET not in caplog.text


async def test_restarted_sidecar_proves_itself_again() -> None:
    async with world() as setup:
        setup.proves(0)
        setup.secrets["team/hub"] = SecretValues("s-7", {"HF_AUTH_TOKEN": SECRET})
        setup.orders.dispatch([load(setup.pod(0), REQUEST, "hub")], {})
        await eventually("it was sent", lambda: len(setup.ends), 1)
        setup.proves(0)
        setup.now[0] += timedelta(seconds=3)
        setup.orders.dispatch([load(setup.pod(0), REQUEST, "hub")], {})
        await eventually("it was sent again", lambda: len(setup.ends), 2)
        assert len(setup.reviewed) == 2
        assert len(setup.sidecar(0).opened) == 2
        assert setup.orders.rejections("team", ["uid-0"]) == {}


@pytest.mark.parametrize("reason", ["TokenReviewForbidden", "TokenNotReviewed"])
async def test_unreviewed_token_gets_no_credentials_yet(reason: str) -> None:
    async with world() as setup:
        setup.proves(0)
        setup.reviewing = TokenReviewError(reason, "no answer")
        setup.secrets["team/hub"] = SecretValues("s-7", {"HF_AUTH_TOKEN": SECRET})
        setup.orders.dispatch([load(setup.pod(0), REQUEST, "hub")], {})
        await eventually("it was given up", lambda: len(setup.ends), 1)
        (rejection,) = setup.orders.rejections("team", ["uid-0"]).values()
        assert (rejection.reason, rejection.message) == (reason, "no answer")
        setup.reviewing, setup.now[0] = None, rejection.until
        setup.orders.dispatch([load(setup.pod(0), REQUEST, "hub")], {})
        await eventually("it was sent", lambda: len(setup.ends), 2)
        assert len(setup.sidecar(0).opened) == 1


async def test_order_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "ORDER_SECONDS", 0.05)
    async with world() as setup:
        setup.sidecar(0).trickles = True
        setup.orders.dispatch([load(setup.pod(0))], {})
        await eventually("it was given up", lambda: len(setup.ends), 1)
        assert setup.orders.rejections("team", ["uid-0"]) == {}, "not delivered, which is no refusal"


async def test_secret_that_cannot_be_sent_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as setup:
        setup.proves(0)
        setup.secrets["team/hub"] = SecretValues("s-8", {"HF_AUTH_TOKEN": f"{SECRET}\nX-Other: 1"})
        setup.orders.dispatch([load(setup.pod(0), REQUEST, "hub")], {})
        await eventually("it was given up", lambda: len(setup.ends), 1)
        assert setup.sidecar(0).orders == []
        assert SECRET not in caplog.text


async def test_without_its_secret_an_order_is_not_sent() -> None:
    async with world() as setup:
        setup.proves(0)
        setup.orders.dispatch([load(setup.pod(0), REQUEST, "hub")], {})
        await eventually("it was not", lambda: len(setup.ends), 1)
        assert setup.sidecar(0).orders == []


def _with_revision(sidecar: Observation, revision: str) -> Observation:
    assert sidecar.answer is not None
    return Observation(sidecar.answer.model_copy(update={"revision": revision}), ever_answered=True)


async def test_waiting_order_that_is_no_longer_wanted_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "AT_ONCE", 1)
    arrived, go = asyncio.Event(), asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await go.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with world(3) as setup, server:
        slow = EnginePod("team", "slow", "uid-slow", "node-a", {}, "127.0.0.1", server.sockets[0].getsockname()[1])
        uids = ["uid-slow", "uid-0", "uid-1", "uid-2"]

        def a_pass(*pods: EnginePod) -> None:
            setup.orders.rejections("team", uids)
            setup.orders.dispatch([load(target) for target in pods], {})

        a_pass(slow, setup.pod(0), setup.pod(1))
        await arrived.wait()
        a_pass(slow, setup.pod(0))
        a_pass(slow, setup.pod(0), setup.pod(2))
        go.set()
        await eventually("the last is given", lambda: list(setup.sidecar(2).adapters), ["sql"])
        assert list(setup.sidecar(0).adapters) == ["sql"]
        assert setup.sidecar(1).orders == []

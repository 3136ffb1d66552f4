"""Draining: when it is over, what it counts, and the routes, beside a double of each engine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_double import Double, running_double
from patio.drain import request_counter
from patio.drain.drain import Drain
from patio.drain.planner import (
    BLIND_SECONDS,
    CountOutcome,
    DrainSnapshot,
    DrainState,
    RequestCount,
    observe,
    outcome,
    plan,
)
from patio.drain.request_counter import CountSources, RequestCounter, total
from patio.drain.settings import DrainSettings
from patio.settings import Settings
from patio_protocol.client import SidecarClient
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import StartSidecar, eventually
from patio_testing.sidecar.processes import machine, start_busy_pod

ENGINES = pytest.mark.parametrize("engine", ["vllm", "sglang"])
QUICK = DrainSettings(timeout=10, settle=0.3)
QUIET, BUSY, QUEUED = (
    RequestCount(CountOutcome.COUNTED, 0, 0),
    RequestCount(CountOutcome.COUNTED, 1, 0),
    RequestCount(CountOutcome.COUNTED, 0, 1),
)
GONE, BLIND, SILENT = (
    RequestCount(CountOutcome.GONE),
    RequestCount(CountOutcome.BLIND),
    RequestCount(CountOutcome.NO_ANSWER),
)


def state_after(*steps: tuple[float, RequestCount], left_at: float = 0.0, settle: float = 2.0) -> DrainState:
    snapshot = DrainSnapshot()
    for now, count in steps:
        snapshot = observe(snapshot, count, now >= left_at, now)
    return plan(snapshot, settle, steps[-1][0])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(0.0, QUIET)], "go on"),
        ([(0.0, QUIET), (2.1, QUIET)], "drained"),
        ([(0.0, QUIET), (1.0, BUSY), (2.1, QUIET)], "go on"),
        ([(0.0, QUIET), (1.0, QUEUED), (2.1, QUIET)], "go on"),
        ([(0.0, QUIET), (1.0, SILENT), (2.1, QUIET)], "go on"),
        ([(0.0, BUSY), (9.0, QUIET), (10.0, QUIET)], "go on"),
        ([(0.0, BUSY), (9.0, QUIET), (10.0, QUIET), (11.5, QUIET)], "drained"),
        ([(0.0, BUSY), (1.0, GONE)], "drained"),
        ([(0.0, BLIND), (5.0, BLIND)], "go on"),
        ([(0.0, BLIND), (BLIND_SECONDS, BLIND)], "blind"),
        ([(0.0, SILENT), (100.0, SILENT)], "go on"),
    ],
)
def test_when_a_drain_is_over(steps: list[tuple[float, RequestCount]], expected: str) -> None:
    assert state_after(*steps) == expected


def test_quiet_counts_from_when_the_routers_were_left() -> None:
    assert state_after((0.0, QUIET), (3.0, QUIET), (4.0, QUIET), left_at=3.5) is DrainState.GO_ON
    assert state_after((0.0, GONE), left_at=1.0) is DrainState.GO_ON


def test_drain_without_settling_still_takes_two_counts() -> None:
    assert state_after((0.0, QUIET), settle=0.0) is DrainState.GO_ON
    assert state_after((0.0, QUIET), (0.1, QUIET), settle=0.0) is DrainState.DRAINED


@given(st.lists(st.tuples(st.floats(0.01, 3), st.sampled_from([QUIET, BUSY, QUEUED, BLIND, SILENT])), min_size=1))
def test_nothing_is_drained_within_settle_time_of_a_request(gaps: list[tuple[float, RequestCount]]) -> None:
    now, snapshot, last_noise = 0.0, DrainSnapshot(), 0.0
    for gap, count in gaps:
        now += gap
        snapshot = observe(snapshot, count, True, now)
        if not count.quiet:
            last_noise = now
        if plan(snapshot, 2.0, now) is DrainState.DRAINED:
            assert now - last_noise >= 2.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'vllm:num_requests_running{engine="0"} 2.0\n', 2),
        (b'# TYPE x gauge\nvllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_running{engine="1"} 3\n', 5),
        (b"vllm:num_requests_running 1\n", 1),
        (b'vllm:num_requests_running{a="}{ 7"} 1 1700000000\n', 1),
        (b'vllm:num_requests_running{a="b"} NaN\nvllm:num_requests_running{a="c"} -1\n', 0),
        (b'vllm:num_requests_running{a="b"} 0.4\n', 1),
        (b"vllm:num_requests_running_total 7\n", None),
        (b"# HELP vllm:num_requests_running 7\n", None),
        (b"", None),
    ],
)  # fmt: skip
def test_counts_are_summed_over_ranks(text: bytes, expected: int | None) -> None:
    assert total(text, ("vllm:num_requests_running",)) == expected


def test_recorded_metrics_are_counted(recordings: Path) -> None:
    text = (recordings / "vllm" / "metrics-0.32.0.txt").read_bytes()
    assert (total(text, ("vllm:num_requests_running",)), total(text, ("vllm:num_requests_waiting",))) == (2, 0)
    busy = (recordings / "sglang" / "metrics_busy.txt").read_bytes()
    assert (total(busy, ("sglang:num_running_reqs",)), total(busy, ("sglang:num_queue_reqs",))) == (8, 16)


def connection_refused() -> httpx.ConnectError:
    """As httpx raises it where nothing listens."""
    error = httpx.ConnectError("All connection attempts failed")
    error.__context__ = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")
    return error


async def counts_of(*answers: httpx.Response | Exception) -> list[RequestCount]:
    """Look at an engine that answers each path in turn: /v1/loads, /get_load, /metrics."""
    paths = ["/v1/loads", "/get_load", "/metrics"]

    def handle(request: httpx.Request) -> httpx.Response:
        answer = answers[paths.index(request.url.path)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    sources = CountSources("http://e", "/metrics", ("sglang:num_running_reqs",), ("sglang:num_queue_reqs",), loads=True)
    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http:
        engine = RequestCounter(sources, http)
        return [await engine.count(), await engine.count()]


NOT_THERE = httpx.Response(404)
METRICS = httpx.Response(200, text='sglang:num_running_reqs{tp_rank="0"} 3.0\nsglang:num_queue_reqs{tp_rank="0"} 1.0\n')
QUEUES = {"mode": "prefill", "prefill_inflight_queue_reqs": 2, "kv_transfer_speed_gb_s": 1.5}
LOADS = {"loads": [{"num_running_reqs": 1, "num_waiting_reqs": 2, "disaggregation": QUEUES}, {"num_running_reqs": 1}]}
OLD_LOADS = [{"dp_rank": 0, "num_reqs": 5, "num_waiting_reqs": 2, "num_tokens": 9}]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((httpx.Response(200, json=LOADS), NOT_THERE, NOT_THERE), RequestCount(CountOutcome.COUNTED, 2, 4)),
        ((NOT_THERE, httpx.Response(200, json=OLD_LOADS), METRICS), RequestCount(CountOutcome.COUNTED, 3, 2)),
        ((NOT_THERE, NOT_THERE, METRICS), RequestCount(CountOutcome.COUNTED, 3, 1)),
        ((httpx.Response(401), httpx.Response(200, text="<html>"), METRICS), RequestCount(CountOutcome.COUNTED, 3, 1)),
        ((NOT_THERE, NOT_THERE, NOT_THERE), BLIND),
        ((NOT_THERE, NOT_THERE, httpx.Response(200, text="up 1\n")), BLIND),
        ((httpx.Response(503), NOT_THERE, METRICS), SILENT),
        ((httpx.ReadTimeout(""), NOT_THERE, METRICS), SILENT),
        ((connection_refused(), NOT_THERE, METRICS), GONE),
        ((NOT_THERE, NOT_THERE, connection_refused()), GONE),
    ],
)
async def test_engine_is_counted_by_what_it_has(answers: Any, expected: RequestCount) -> None:
    assert await counts_of(*answers) == [expected, expected]


RUNNING = httpx.Response(200, text="vllm:num_requests_running 5\nvllm:num_requests_waiting 0\n")
IDLE = httpx.Response(200, text="vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n")


class Routers:
    """What a drain hears of its routers."""

    def __init__(self, has_left: bool = False, unreachable: bool = False) -> None:
        self.has_left = has_left
        self.unreachable = unreachable

    def begin(self) -> None: ...


class Answers:
    """An engine with metrics alone; the last answer stays."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextlib.asynccontextmanager
async def draining(
    engine: Answers, routers: Routers, settle: float = 0.1, counted: list[str] | None = None
) -> AsyncIterator[Drain]:
    counted = [] if counted is None else counted
    sources = CountSources(
        "http://e", "/metrics", ("vllm:num_requests_running",), ("vllm:num_requests_waiting",), loads=False
    )
    async with httpx.AsyncClient(transport=httpx.MockTransport(engine)) as http:
        counter = RequestCounter(sources, http)
        drain = Drain(DrainSettings(10, settle), counter, routers, lambda outcome, seconds: counted.append(outcome))
        try:
            yield drain
        finally:
            await drain.close()


async def test_router_that_never_lets_go_is_never_drained() -> None:
    engine, routers = Answers(IDLE), Routers()
    counted: list[str] = []
    async with draining(engine, routers, counted=counted) as drain:
        answer = await drain.drain(2)
        assert (answer.drained, answer.unregistered, answer.running) == (False, False, 0)
        assert "still has requests" not in answer.message
        engine.answers = [RUNNING]
        second_answer = await drain.drain(2)
        assert (second_answer.drained, second_answer.running) == (False, 5), "a later call looks again"
        engine.answers, routers.has_left = [IDLE], True
        assert (await drain.drain(10)).drained
        assert counted == ["router", "requests", "drained"]


@pytest.mark.parametrize(
    ("last", "state", "has_left", "expected"),
    [
        (QUIET, DrainState.DRAINED, True, "drained"),
        (QUIET, DrainState.DRAINED, False, "drained"),
        (BUSY, DrainState.GO_ON, True, "requests"),
        (QUEUED, DrainState.GO_ON, False, "requests"),
        (QUIET, DrainState.GO_ON, True, "requests"),
        (QUIET, DrainState.GO_ON, False, "router"),
        (GONE, DrainState.GO_ON, False, "router"),
        (SILENT, DrainState.GO_ON, True, "unknown"),
        (BLIND, DrainState.GO_ON, False, "unknown"),
        (BLIND, DrainState.BLIND, True, "unknown"),
    ],
)
def test_outcome_of_a_drain_says_what_may_be_cut(
    last: RequestCount, state: DrainState, has_left: bool, expected: str
) -> None:
    assert outcome(DrainSnapshot(last=last), state, has_left) == expected


@ENGINES
async def test_drain_is_in_the_metrics(engine: str, sidecar: StartSidecar) -> None:
    async def value(name: str) -> float:
        text = (await path_of(client).get("http://sidecar/metrics")).text
        return float(text.split(f"\n{name} ")[1].split("\n")[0])

    async with running_double(engine=engine, tokens_per_second=20.0) as double, sidecar(double, drain=QUICK) as client:
        await eventually(lambda: is_ready(client), "ready")
        assert await value("patio:draining") == 0
        assert await value('patio:drains_total{outcome="requests"}') == 0
        request = asyncio.create_task(completion(double, 30))
        await double.engine.core.batch.until_running(1)
        await client.drain(0.5)
        assert (await value("patio:draining"), await value('patio:waiting_for{reason="drain"}')) == (1, 1)
        assert await value('patio:drains_total{outcome="requests"}') == 1
        await request
        await client.drain()
        assert await value('patio:drains_total{outcome="drained"}') == 1
        assert await value("patio:drain_duration_seconds_count") == 2


async def test_drained_pod_that_gets_requests_is_drained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patio.drain.drain.LEAVE_SHARE", 0.01)
    engine, routers = Answers(IDLE), Routers(unreachable=True)
    async with draining(engine, routers) as drain:
        assert (await drain.drain(20)).drained, "the routers are gone, most likely"
        engine.answers = [RUNNING]
        second_answer = await drain.drain(2)
        assert (second_answer.drained, second_answer.running) == (False, 5)
        routers.unreachable = False
        engine.answers = [IDLE]
        answer = await drain.drain(2)
        assert (answer.drained, answer.unregistered) == (False, False), "a router that answers lists it"


async def test_more_patient_call_waits_longer_for_silent_routers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patio.drain.drain.LEAVE_SHARE", 0.01)
    monkeypatch.setattr("patio.drain.drain.LONGEST_LEAVE", 3600.0)
    async with draining(Answers(IDLE), Routers(unreachable=True)) as drain:
        assert (await drain.drain(20)).drained
        patient_drain = asyncio.create_task(drain.drain(3600))
        assert not (await drain.drain(2)).drained
        patient_drain.cancel()
        await asyncio.gather(patient_drain, return_exceptions=True)


@pytest.mark.parametrize(
    "odd", [httpx.Response(429), httpx.Response(401), httpx.Response(404), httpx.Response(200, text="x")]
)
async def test_one_unreadable_answer_does_not_blind_a_drain(odd: httpx.Response) -> None:
    engine = Answers(odd, RUNNING)
    async with draining(engine, Routers(has_left=True)) as drain:
        answer = await drain.drain(2)
        assert (answer.drained, answer.running) == (False, 5)
        engine.answers = [IDLE]
        assert (await drain.drain(10)).drained


def test_engine_that_was_counted_once_is_never_blind() -> None:
    steps = [(0.0, BUSY), *((float(at), BLIND) for at in range(1, 30))]
    assert state_after(*steps) is DrainState.GO_ON
    assert state_after((0.0, BLIND), (9.0, SILENT), (BLIND_SECONDS, BLIND)) is DrainState.BLIND
    assert state_after((0.0, SILENT), (BLIND_SECONDS, BLIND)) is DrainState.GO_ON


async def test_failing_source_of_counts_is_replaced_by_the_next() -> None:
    errors = [httpx.Response(500)] * 20

    def handle(request: httpx.Request) -> httpx.Response:
        return errors.pop() if request.url.path == "/v1/loads" else METRICS

    sources = CountSources("http://e", "/metrics", ("sglang:num_running_reqs",), ("sglang:num_queue_reqs",), loads=True)
    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http:
        engine = RequestCounter(sources, http)
        outcomes = [(await engine.count()).outcome for _ in range(6)]
    assert outcomes[0] is CountOutcome.NO_ANSWER
    assert outcomes[-1] is CountOutcome.COUNTED


@pytest.mark.parametrize(
    "error", [httpx.ConnectError(""), httpx.PoolTimeout(""), httpx.ReadError(""), httpx.ConnectTimeout("")]
)
async def test_only_a_refused_connection_means_the_engine_is_gone(error: Exception) -> None:
    assert await counts_of(error, NOT_THERE, METRICS) == [SILENT, SILENT]


def path_of(client: SidecarClient) -> httpx.AsyncClient:
    return client._http


async def completion(double: Double, tokens: int) -> str:
    body = {"model": "tiny", "prompt": "once upon a time", "max_tokens": tokens}
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{double.url}/v1/completions", json=body, timeout=DEADLINE)
    reason: str = answer.json()["choices"][0]["finish_reason"]
    return reason


async def is_ready(client: SidecarClient) -> bool:
    return (await client.ready()).ready


@ENGINES
async def test_drain_waits_for_last_request_pod_is_unready_at_once(engine: str, sidecar: StartSidecar) -> None:
    async with running_double(engine=engine, tokens_per_second=20.0) as double, sidecar(double, drain=QUICK) as client:
        await eventually(lambda: is_ready(client), "ready")
        request = asyncio.create_task(completion(double, 24))
        await double.engine.core.batch.until_running(1)
        draining = asyncio.create_task(client.drain())

        async def not_ready() -> bool:
            return not await is_ready(client)

        await eventually(not_ready, "not ready while the request runs")
        assert not request.done()
        answer = await draining
        assert request.done()
        assert request.result() == "length"
        assert (answer.drained, answer.running, answer.waiting, answer.message) == (True, 0, 0, "")
        readiness = await client.ready()
        assert any(reason.startswith("drain:") for reason in readiness.waiting_for)


@ENGINES
async def test_deadline_is_kept_and_another_call_goes_on_waiting(engine: str, sidecar: StartSidecar) -> None:
    async with running_double(engine=engine, tokens_per_second=20.0) as double, sidecar(double, drain=QUICK) as client:
        request = asyncio.create_task(completion(double, 30))
        await double.engine.core.batch.until_running(1)
        answer = await client.drain(0.6)  # before the request ends, a second after it
        assert (answer.drained, answer.running) == (False, 1)
        assert "still has requests" in answer.message
        assert (await client.drain(10)).drained
        assert await request == "length"


async def test_calls_join_the_drain_and_drained_pod_answers_at_once(sidecar: StartSidecar) -> None:
    async with running_double(tokens_per_second=20.0) as double, sidecar(double, drain=QUICK) as client:
        request = asyncio.create_task(completion(double, 20))
        await double.engine.core.batch.until_running(1)
        long_drain = asyncio.create_task(client.drain(10))
        short_answer = await client.drain(0.4)
        answers = [await path_of(client).post("http://sidecar/v1/drain", json={"timeout": 10}), await long_drain]
        assert not short_answer.drained
        assert answers[0].json()["drained"]
        assert answers[1].drained
        assert await request == "length"
        counts = len(double.calls("/metrics"))
        assert (
            await path_of(client).post("http://sidecar/v1/drain", headers={"content-type": "application/json"})
        ).json()["drained"]
        assert len(double.calls("/metrics")) == counts + 1, "a drained engine is counted once more"


async def test_engine_that_is_gone_is_drained(sidecar: StartSidecar) -> None:
    async with running_double() as double, sidecar(double, drain=QUICK) as client:
        await double.crash()
        answer = await client.drain()
        assert (answer.drained, answer.running, answer.message) == (True, 0, "The engine has stopped.")


async def test_uncounted_engine_is_awaited_and_not_called_drained(
    sidecar: StartSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patio.drain.planner.BLIND_SECONDS", 0.5)
    monkeypatch.setattr(request_counter, "_LOADS", "/nowhere")
    async with (
        running_double(engine="sglang", enable_metrics=False) as double,
        sidecar(double, drain=QUICK) as client,
    ):
        answer = await client.drain()
        assert (answer.drained, answer.running, answer.waiting) == (False, None, None)
        assert "does not report" in answer.message


async def test_sigterm_waits_for_the_drain_of_an_engines_hook(tmp_path: Path) -> None:
    async with machine(tmp_path) as local_machine:
        pod, request = await start_busy_pod(local_machine, tokens_per_second=20)
        draining = asyncio.create_task(pod.client.drain(20))

        async def has_begun() -> bool:
            return "drain begins" in local_machine.read_log("pod-0-sidecar")

        await eventually(has_begun, "the drain begins")
        assert pod.sidecar is not None
        pod.sidecar.send_signal(signal.SIGTERM)
        assert (await draining).drained
        assert (await request).json()["choices"][0]["finish_reason"] == "length"
        assert await asyncio.wait_for(pod.sidecar.wait(), DEADLINE) == 0


def test_default_leaves_time_within_the_usual_grace_period() -> None:
    assert Settings().drain == DrainSettings(25.0, 2.0)

"""What anybody may post to the webhook's port: what is no review is a 400 in words, and nothing holds up the others."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from patio_api.bounded_json import read_json
from patio_api.crd import CONVERSION_PATH
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.client import ApiError, KubeClient, Object
from patio_operator.caches import Caches
from patio_operator.injection import CallerKeys
from patio_operator.telemetry.metrics import Metrics
from patio_operator.webhooks import loraadapters, profiles, reviewing, server
from patio_operator.webhooks.reviewing import BusyError, Gate, InvalidReviewError, Limits, read_review
from patio_testing.deadline import DEADLINE
from patio_testing.operator.pod_builders import VLLM, pod, profile


class FewLookups:
    """The profile `patio` and no LoraAdapters."""

    async def profile(self, name: str, rolled_for: str | None) -> ClusterEngineRuntimeProfile | None:
        if name == "broken":
            raise ApiError(0, "the API server is away")
        return profile() if name == "patio" else None

    async def adapters(self, namespace: str) -> tuple[()]:
        return ()


class Webhook:
    """The operator's webhook server, without TLS and with nothing behind it."""

    def __init__(self, port: int, metrics: Metrics, session: aiohttp.ClientSession) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._telemetry = metrics
        self.session = session

    async def post(self, path: str, data: Any, **headers: str) -> tuple[int, Any]:
        async with self.session.post(self._url + path, data=data, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text

    def counted(self, webhook: str) -> dict[tuple[str, str], float]:
        """What a webhook counted, by outcome and reason."""
        return {
            (labels["outcome"], labels["reason"]): value
            for labels, value in self._samples("patio_operator_admissions_total")
            if labels["webhook"] == webhook and value
        }

    def warnings(self, webhook: str) -> float:
        name = "patio_operator_admission_warnings_total"
        return next(value for labels, value in self._samples(name) if labels["webhook"] == webhook)

    def series(self) -> set[tuple[str, ...]]:
        return {tuple(labels.values()) for labels, _ in self._samples("patio_operator_admissions_total")}

    def _samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        return [
            (sample.labels, sample.value)
            for family in self._telemetry.registry.collect()
            for sample in family.samples
            if sample.name == name
        ]


@pytest.fixture
async def webhook(unreachable: KubeClient) -> AsyncIterator[Webhook]:
    metrics = Metrics()
    app = server.application(
        FewLookups(),  # type: ignore[arg-type]
        metrics,
        lambda: CallerKeys(("key",), "word"),
        observing=lambda: False,
        stopping=lambda: False,
    )
    profiles.add_route(app, unreachable, "patio-system")
    loraadapters.add_route(app, unreachable, Caches(unreachable))
    runner = await server.serve(app, 0)
    port = port_of(runner)
    async with aiohttp.ClientSession() as session:
        yield Webhook(port, metrics, session)
    await runner.cleanup()


def port_of(runner: web.AppRunner) -> int:
    """The port of IPv4 that it listens on."""
    return next(int(address[1]) for address in runner.addresses if len(address) == 2)


def review(body: Object, **request: Any) -> bytes:
    return json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": "7", "namespace": "team", "object": body, **request},
        }
    ).encode()


def asking(name: str = "patio", *containers: Object) -> Object:
    return pod(*containers, metadata={"labels": {"patio.dev/profile": name}})


PATHS = (server.PODS_PATH, CONVERSION_PATH, profiles.PROFILES_PATH, loraadapters.LORA_ADAPTERS_PATH)
NO_REVIEWS: dict[str, bytes] = {
    "nothing": b"",
    "text": b"no JSON",
    "list": b"[]",
    "number": b"7",
    "nan": b'{"request": NaN}',
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 2000,
    "very deep": b"[" * 1_000_000,
    "deep object": b'{"request": {"uid": "7", "object": ' + b'{"a":' * 100 + b"1" + b"}" * 102,
    "no request": b'{"apiVersion": "v1"}',
    "no uid": b'{"apiVersion": "v1", "request": {}}',
    "odd object": b'{"apiVersion": "v1", "request": {"uid": "7", "object": []}}',
    "no object": b'{"apiVersion": "v1", "request": {"uid": "7", "namespace": "team"}}',
    "odd metadata": b'{"apiVersion": "v1", "request": {"uid": "7", "object": {"metadata": 7}}}',
    "odd spec": review({"metadata": {"labels": {"patio.dev/profile": "patio"}}, "spec": []}),
    "odd containers": review({"metadata": {"labels": {"patio.dev/profile": "patio"}}, "spec": {"containers": 7}}),
    "odd labels": review({"metadata": {"labels": 7}, "spec": {}}),
    "latin": b'{"apiVersion": "\xff"}',
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("data", NO_REVIEWS.values(), ids=NO_REVIEWS.keys())
async def test_body_that_is_no_review_is_answered_with_a_message(webhook: Webhook, path: str, data: bytes) -> None:
    status, answer = await webhook.post(path, data)
    if path in (profiles.PROFILES_PATH, loraadapters.LORA_ADAPTERS_PATH) and status == 200:
        assert answer["response"]["uid"] == "7"  # an object that is wrong is refused or let through as such
        return
    assert status == 400, answer
    assert answer["error"].startswith("not a")


async def test_body_is_bounded_before_it_is_read(webhook: Webhook) -> None:
    long = b"x" * (server.PODS.longest + 1)
    assert (await webhook.post(server.PODS_PATH, long))[0] == 413

    async def chunks() -> AsyncIterator[bytes]:
        yield review(asking())

    assert (await webhook.post(server.PODS_PATH, chunks()))[0] == 411
    packed = gzip.compress(b" " * 10_000_000)
    status, _ = await webhook.post(server.PODS_PATH, packed, **{"Content-Encoding": "gzip"})
    assert status == 415


async def test_each_review_is_counted_by_its_outcome(webhook: Webhook) -> None:
    assert (await webhook.post(server.PODS_PATH, review(asking())))[1]["response"]["allowed"]
    assert not (await webhook.post(server.PODS_PATH, review(asking("missing"))))[1]["response"]["allowed"]
    assert (await webhook.post(server.PODS_PATH, review(asking("broken"))))[0] == 500
    pods = {("allowed", "injected"): 1, ("rejected", "profile_not_found"): 1, ("error", "api_error"): 1}
    assert webhook.counted("pods") == pods
    adapter = {
        "metadata": {"name": "a"},
        "spec": {"source": {"uri": "file:///a"}, "selector": {"matchLabels": {"app": "a"}}},
    }
    await webhook.post(loraadapters.LORA_ADAPTERS_PATH, review(adapter))
    await webhook.post(profiles.PROFILES_PATH, review({"metadata": {"name": "p"}, "spec": {"updateStrategy": "X"}}))
    await webhook.post(CONVERSION_PATH, b"no JSON")
    assert webhook.counted("loraadapters") == {("allowed", "not_compared"): 1}
    assert webhook.counted("profiles") == {("rejected", "dry_run_failed"): 1}
    assert webhook.counted("conversion") == {("error", "not_a_review"): 1}
    assert webhook.warnings("loraadapters") == 1


async def test_reasons_of_reviews_are_there_before_the_first(webhook: Webhook) -> None:
    before = webhook.series()
    assert before
    await webhook.post(server.PODS_PATH, review(asking()))
    await webhook.post(server.PODS_PATH, review({"metadata": {}, "spec": {"containers": []}}))
    await webhook.post(server.PODS_PATH, review(asking("missing")))
    await webhook.post(server.PODS_PATH, b"no JSON")
    await webhook.post(server.PODS_PATH, b"x" * (server.PODS.longest + 1))
    await webhook.post(CONVERSION_PATH, b"no JSON")
    assert webhook.series() == before


async def test_pod_with_a_hostile_command_is_answered(webhook: Webhook) -> None:
    for script in ("'" * 1_000_000, "$(" * 500_000, "sh -c " * 100_000):
        hostile = {**VLLM, "command": ["sh", "-c", script]}
        status, answer = await webhook.post(server.PODS_PATH, review(asking("patio", hostile)))
        assert status == 200, answer
        assert answer["response"]["allowed"]


async def test_slow_bodies_hold_up_no_other_kind(webhook: Webhook) -> None:
    """A sender that stops in the middle keeps its own kind's room, and is sent away in the end."""
    _, writer = await _stalled(webhook, CONVERSION_PATH, server.CONVERSIONS.longest)
    status, answer = await webhook.post(server.PODS_PATH, review(asking()))
    assert (status, answer["response"]["allowed"]) == (200, True)
    writer.close()


async def test_body_that_does_not_come_is_not_waited_for(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviewing, "READ_SECONDS", 0.05)
    reader, writer = await _stalled(webhook, server.PODS_PATH, 1000)
    assert b" 503 " in await asyncio.wait_for(reader.readline(), DEADLINE)
    writer.close()


async def _stalled(webhook: Webhook, path: str, length: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(webhook._url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{".encode())
    await writer.drain()
    return reader, writer


async def test_review_waits_for_a_place_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviewing, "WAIT_SECONDS", 0.05)
    gate = Gate(Limits(longest=10, bytes_at_once=10, at_once=2))
    async with gate.reserve(6):
        async with gate.reserve(4):
            with pytest.raises(BusyError):
                async with gate.reserve(0):
                    raise AssertionError("a third one")
        with pytest.raises(BusyError):
            async with gate.reserve(5):
                raise AssertionError("too many bytes")
        async with gate.reserve(4):
            pass
    async with gate.reserve(10):
        pass


async def test_place_is_given_back_whatever_happens() -> None:
    gate = Gate(Limits(longest=10, bytes_at_once=10, at_once=1))
    for _ in range(3):
        with pytest.raises(ValueError, match="oh"):
            async with gate.reserve(10):
                raise ValueError("oh")
    waiting = asyncio.Event()

    async def hold() -> None:
        async with gate.reserve(10):
            waiting.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(hold())
    await waiting.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with gate.reserve(10):
        pass


async def test_answer_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviewing, "ANSWER_SECONDS", 0.05)
    outcomes: list[reviewing.Outcome] = []

    async def never(_: Object) -> reviewing.Decision:
        await asyncio.sleep(3600)
        return reviewing.Decision({}, "unchanged")

    answer, limits = reviewing.deciding(never), reviewing.VALIDATIONS
    handle = reviewing.handler("a review", answer, limits, lambda outcome, _: outcomes.append(outcome))
    app = web.Application()
    app.router.add_post("/", handle)
    runner = await server.serve(app, 0)
    port = port_of(runner)
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}/", data=review(asking())) as response,
        ):
            assert response.status == 503
    finally:
        await runner.cleanup()
    assert outcomes == [reviewing.Outcome("error", "timeout")]


def test_review_is_read_down_to_a_depth() -> None:
    def nested(levels: int) -> bytes:
        inner: Any = {"metadata": {}}
        for _ in range(levels):
            inner = {"metadata": {}, "a": inner}
        return review(inner)

    read_review(nested(reviewing.DEEPEST - 5))
    with pytest.raises(InvalidReviewError, match="deep"):
        read_review(nested(reviewing.DEEPEST + 1))


@pytest.mark.parametrize(
    "text", ["[" * 2000, "[" * 100_000, "[" * 64 + "]" * 64, "x", '"' + "a" * 300_000 + '"', 7, None]
)
def test_text_that_cannot_be_read_is_nothing(text: object) -> None:
    assert read_json(text) is None


def test_text_within_the_limits_is_what_it_says() -> None:
    assert read_json('{"a": [1]}') == {"a": [1]}
    assert read_json("[" * 20 + "]" * 20) is not None

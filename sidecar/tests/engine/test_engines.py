"""What is made of the engines' answers, as recorded from the real ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from engine_double import running_double
from engine_double.samples import write_adapter
from patio.engine import sglang, vllm
from patio.engine.address import read_address
from patio.engine.base import EngineError, EngineReason, EngineView
from patio.engine.list_stability import DISBELIEF, ListStability
from patio.engine.sglang import Sglang
from patio.engine.vllm import Vllm
from patio_testing.sidecar.recordings import sglang_answers, vllm_answers


def test_vllm_rejections_are_permanent_with_its_own_message(recordings: Path) -> None:
    refusals = [answer for answer in vllm_answers(recordings) if answer[1] != 200]
    assert len(refusals) >= 8
    for path, status, body in refusals:
        fault = vllm.error_of_answer(path, status, body)
        assert fault.permanent, body
        if status == 401:
            assert "ENGINE_API_KEY" in fault.message
        else:
            assert fault.message in body


def test_sglang_rejections_are_permanent_except_a_taken_name(recordings: Path) -> None:
    refusals = [answer for answer in sglang_answers(recordings) if answer[1] != 200]
    assert len(refusals) >= 20
    for path, status, body in refusals:
        fault = sglang.error_of_answer(path, status, body)
        assert fault.permanent is ("already loaded" not in body), body


def one_gpu(cause: str) -> str:
    """As vLLM 0.32 words it with the executor `uni`, which is that of one GPU."""
    message = f"Call to add_lora method failed: {cause}"
    return json.dumps({"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}})


def reason(fault: EngineError) -> EngineReason:
    return fault.reason


@pytest.mark.parametrize(
    ("status", "body", "permanent", "reason"),
    [
        (404, '{"error":{"message":"No adapter found for /x","type":"NotFoundError"}}', True, "AdapterNotFound"),
        (404, '{"detail":"Not Found"}', True, "LoraUnavailable"),
        (405, '{"detail":"Method Not Allowed"}', True, "LoraUnavailable"),
        (500, '{"error":{"message":"Call failed: Worker failed with error \'x\'"}}', True, "AdapterRejected"),
        (500, '{"object":"error","message":"Worker failed with error \'x\'"}', True, "AdapterRejected"),
        (500, '{"error":{"message":"EngineCore encountered an issue"}}', False, "EngineError"),
        (500, "Internal Server Error", False, "EngineError"),
        (502, "", False, "EngineError"),
        (503, "busy", False, "EngineError"),
        (429, "slow down", False, "EngineError"),
        (307, "", False, "EngineError"),
        (403, "<html>", True, "EngineUnauthorized"),
        (500, one_gpu("LoRA rank 64 is greater than max_lora_rank 16."), True, "AdapterRejected"),
        (500, one_gpu("vLLM does not yet support DoRA."), True, "AdapterRejected"),
        (500, one_gpu("Error while deserializing header: incomplete metadata"), True, "AdapterRejected"),
        (500, one_gpu("LoRA is not enabled. Use --enable-lora to enable LoRA."), True, "LoraUnavailable"),
        (500, one_gpu("CUDA out of memory. Tried to allocate 20.00 MiB."), False, "EngineError"),
        (500, one_gpu("EngineCore encountered an issue. See stack trace (above)."), False, "EngineError"),
        (500, one_gpu("Server shutting down"), False, "EngineError"),
        (500, one_gpu("Worker failed with error 'CUDA out of memory.'"), False, "EngineError"),
        (400, '{"error":{"message":"conflicts with a served base model."}}', True, "AdapterRejected"),
        (400, '{"error":{"message":"The lora adapter \'a\' has already been loaded."}}', False, "EngineError"),
        (401, '{"error":"Unauthorized"}', True, "EngineUnauthorized"),
        (400, "[]", True, "AdapterRejected"),
    ],
)
def test_vllm_faults_are_distinguished(status: int, body: str, permanent: bool, reason: str) -> None:
    fault = vllm.error_of_answer(vllm.LOAD, status, body)
    assert (fault.permanent, fault.reason) == (permanent, reason)
    assert fault.message


@pytest.mark.parametrize(
    ("status", "body", "permanent", "reason"),
    [
        (400, '{"success":false,"error_message":"LoRA is not enabled."}', True, "LoraUnavailable"),
        (400, '{"success":false,"error_message":"Repo id must be in the form"}', True, "AdapterNotFound"),
        (400, '{"success":false,"error_message":"[Errno 2] No such file or directory: x"}', True, "AdapterNotFound"),
        (400, '{"success":false,"error_message":"rank 32 is incompatible"}', True, "AdapterRejected"),
        (400, '{"object":"error","message":"2 validation errors"}', True, "AdapterRejected"),
        (500, "Internal Server Error", True, "LoraUnavailable"),
        (503, "", False, "EngineError"),
        (400, '{"success":false,"error_message":"CUDA out of memory."}', False, "EngineError"),
        (200, "<html>", False, "EngineError"),
        (307, "", False, "EngineError"),
        (403, "", True, "EngineUnauthorized"),
        (404, '{"detail":"Not Found"}', True, "LoraUnavailable"),
        (401, '{"error":"Unauthorized"}', True, "EngineUnauthorized"),
    ],
)
def test_sglang_faults_are_distinguished(status: int, body: str, permanent: bool, reason: str) -> None:
    fault = sglang.error_of_answer(sglang.LOAD, status, body)
    assert (fault.permanent, fault.reason) == (permanent, reason)
    assert fault.message


@pytest.mark.parametrize("error_of_answer", [vllm.error_of_answer, sglang.error_of_answer])
@pytest.mark.parametrize("status", [400, 500])
def test_engine_messages_are_bounded_and_say_so(
    error_of_answer: Callable[[str, int, str], EngineError], status: int
) -> None:
    body = json.dumps({"error": {"message": "x" * 500_000}, "error_message": "x" * 500_000})
    message = error_of_answer("/v1/load_lora_adapter", status, body).message
    assert message.startswith("xxx")
    assert len(message) < 2100
    assert len(error_of_answer("/v1/load_lora_adapter", status, "x" * 5_000_000).message) < 2100
    assert "498000 characters more" in message


@pytest.mark.parametrize("error_of_answer", [vllm.error_of_answer, sglang.error_of_answer])
@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"error": {"message": "\\ud800\\u001b"}}', '{"error_message": "\\ud800"}']
)
def test_hostile_message_becomes_plain_text(error_of_answer: Callable[[str, int, str], EngineError], body: str) -> None:
    message = error_of_answer("/v1/load_lora_adapter", 500, body).message
    assert message.encode()
    assert "\x1b" not in message


def test_rejected_admin_key_is_reported_with_its_remedy() -> None:
    async def refusal(api_key: str | None, admin_key: str | None) -> str:
        transport = httpx.MockTransport(lambda request: httpx.Response(401, json={"error": "Unauthorized"}))
        async with httpx.AsyncClient(transport=transport) as http:
            with pytest.raises(EngineError) as raised:
                await Sglang("http://engine", http, api_key, admin_key, None).unload("a")
        return raised.value.message

    assert "unset it if the engine has only --api-key" in asyncio.run(refusal("a", "b"))
    assert "Set ENGINE_ADMIN_API_KEY" in asyncio.run(refusal("a", None))
    assert "Set ENGINE_API_KEY or ENGINE_ADMIN_API_KEY" in asyncio.run(refusal(None, None))


async def view_of(list_answer: httpx.Response, kind: str = "vllm", ready: int = 200) -> EngineView:
    def answer(request: httpx.Request) -> httpx.Response:
        return list_answer if request.url.path == "/v1/models" else httpx.Response(ready)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        engine = (
            Vllm("http://engine", http, None) if kind == "vllm" else Sglang("http://engine", http, None, None, None)
        )
        return await engine.view()


BASE = {"id": "tiny", "root": "/m", "parent": None, "max_model_len": 512}
ADAPTER = {"id": "a", "root": "/adapters/a", "parent": "tiny"}


@pytest.mark.parametrize(
    "entry",
    [
        {"id": 7},
        {"id": "b", "root": ["/b"], "parent": "tiny"},
        {"id": "x" * 100_000, "parent": "tiny"},
        {"id": "\ud800", "parent": "tiny"},
        {"id": "b", "root": "/b\x00", "parent": "tiny"},
        [],
        None,
        "b",
    ],
)
async def test_entry_of_the_list_that_is_none_is_left_out(entry: object, caplog: pytest.LogCaptureFixture) -> None:
    answer = httpx.Response(200, content=json.dumps({"data": [BASE, entry, ADAPTER]}))
    view = await view_of(answer)
    assert (view.ready, view.base_models, view.adapters) == (True, ("tiny",), {"a": "/adapters/a"})
    assert [record.message for record in caplog.records if "unreadable entries" in record.message]


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"[]",
        b"null",
        b'{"data": {}}',
        b'{"data": null}',
        b"<html>",
        b"\xff",
        b'{"data": "' + b"x" * 9 * 2**20,
    ],
)
async def test_invalid_list_is_reported_and_removes_nothing(content: bytes) -> None:
    view = await view_of(httpx.Response(200, content=content))
    assert (view.ready, view.listening, view.adapters) == (True, True, None)
    assert view.problem


@pytest.mark.parametrize(
    ("length", "expected"), [(512, 512), (True, None), (-1, None), (10**300, None), (None, None), ("512", None)]
)
async def test_odd_length_of_the_context_is_none(length: object, expected: int | None) -> None:
    view = await view_of(httpx.Response(200, content=json.dumps({"data": [{**BASE, "max_model_len": length}]})))
    assert view.context_tokens == expected


@pytest.mark.parametrize(("status", "ready"), [(503, False), (500, False), (404, False), (401, True), (200, True)])
async def test_old_sglang_is_ready_when_its_list_answers(status: int, ready: bool) -> None:
    listed = httpx.Response(status, content=json.dumps({"data": [BASE]}))
    view = await view_of(listed, "sglang", ready=404)
    assert (view.ready, view.listening) == (ready, True)


async def test_health_behind_a_key_is_reported_as_such() -> None:
    for kind in ("vllm", "sglang"):
        view = await view_of(httpx.Response(200), kind, ready=401)
        assert view.error is not None
        assert (view.ready, view.error.reason) == (False, EngineReason.UNAUTHORIZED)
        assert "ENGINE_API_KEY" in view.problem


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_steady_engine_gets_one_request_per_poll(kind: str, tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a"))
    ready = "/health" if kind == "vllm" else "/ready"
    async with running_double(engine=kind) as double, httpx.AsyncClient() as http:
        url = str(double)
        engine = Vllm(url, http, None) if kind == "vllm" else Sglang(url, http, None, None, None)

        async def poll(number: int) -> list[EngineView]:
            double.requests.clear()
            return [await engine.view() for _ in range(number)]

        def counts() -> tuple[int, int]:
            return len(double.calls(ready)), len(double.calls("/v1/models"))

        await poll(1)
        assert counts() == (1, 1)
        await poll(4)
        assert counts() == (2, 2)
        await engine.load("a", path)
        assert [view.adapters for view in await poll(1)] == [{"a": path}], "the list after an order is a new one"
        assert counts() == (1, 1)
        double.forget()
        assert [view.adapters for view in await poll(2)][-1] == {}, "what vanishes is seen within two polls"
        double.fault(ready, status=503)
        assert not all(view.ready for view in await poll(2)), "and so is an engine that is no longer ready"
        double.clear_faults()
        await poll(1)
        assert counts() == (1, 1)
        await double.crash()
        assert not (await engine.view()).listening
        await double.start()
        await poll(1)
        assert counts() == (1, 1)


@pytest.mark.parametrize("polls", [1, 2, 3])
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_engine_that_died_is_gone_whatever_was_asked_first(kind: str, polls: int) -> None:
    async with running_double(engine=kind) as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None) if kind == "vllm" else Sglang(str(double), http, None, None, None)
        for _ in range(polls):
            assert (await engine.view()).ready
        await double.crash()
        view = await engine.view()
        assert (view.ready, view.listening) == (False, False)


async def test_list_read_during_an_order_is_not_shown_again(tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a"))
    async with running_double() as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        await engine.view()
        double.fault(vllm.LOAD, delay=0.3)
        loading = asyncio.create_task(engine.load("a", path))
        while not loading.done():
            # Readiness alone would be asked now, were it not for the order.
            await engine.view()
        await loading
        assert (await engine.view()).adapters == {"a": path}


def test_list_that_changes_by_itself_is_unreliable() -> None:
    stability = ListStability()
    verdicts = [
        stability.observe({"a"} if number % 2 else set(), 0, may_evict=False, now=float(number)) for number in range(12)
    ]
    assert not any(verdicts[:7])
    assert all(verdicts[7:])
    assert stability.observe({"a"}, 0, may_evict=False, now=DISBELIEF)
    assert not stability.observe({"a"}, 0, may_evict=False, now=7 + DISBELIEF)


@pytest.mark.parametrize(("orders", "may_evict"), [(1, False), (0, True)])
def test_orders_and_evictions_make_no_list_unsteady(orders: int, may_evict: bool) -> None:
    stability = ListStability()
    for number in range(100):
        assert not stability.observe(
            {"a"} if number % 2 else set(), number * orders, may_evict=may_evict, now=float(number)
        )


@pytest.mark.parametrize(
    ("text", "shown", "base_url"),
    [
        ("http://localhost:8000/", "http://localhost:8000", "http://localhost:8000"),
        ("http://fd00::7:8000", "http://[fd00::7]:8000", "http://[fd00::7]:8000"),
        ("http://::1:8000/llm", "http://[::1]:8000/llm", "http://[::1]:8000/llm"),
        ("https://fd00::7", "https://[fd00::7]", "https://[fd00::7]"),
        ("http://fd00:0:0:0:0:0:0:7:80", "http://[fd00:0:0:0:0:0:0:7]:80", "http://[fd00:0:0:0:0:0:0:7]:80"),
        ("http://[fd00::7]:8000", "http://[fd00::7]:8000", "http://[fd00::7]:8000"),
        ("unix:///run/vllm.sock", "unix:///run/vllm.sock", "http://localhost"),
    ],
)
def test_address_is_read_as_injection_and_users_write_it(text: str, shown: str, base_url: str) -> None:
    address = read_address(text)
    assert (address.shown, address.base_url) == (shown, base_url)
    assert (address.socket is not None) is text.startswith("unix:")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "localhost:8000",
            "http://",
            "http://a:99999",
            "http://a:0",
            "ftp://a",
            "http://u:p@a",
            "http://a?b",
            "http://a#b",
        ),
        *("http://a\n:8000", "http://a b", "http://é", "http://fd00::7:port", "http://" + "a" * 64, "http://a%00b"),
        *("unix://run/x", "unix:///", "unix:///" + "x" * 120, "unix:///a\x00"),
    ],
)
def test_invalid_address_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of any words
        read_address(text)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        *[("https://localhost", True), ("https://127.8.8.8:1", True), ("https://::1:8000", True), ("unix:///x", True)],
        *[("https://10.0.0.7", False), ("https://localhost.example.com", False)],
    ],
)
def test_loopback_is_this_pod(url: str, loopback: bool) -> None:
    assert read_address(url).is_loopback is loopback

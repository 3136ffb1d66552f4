"""The scraper against engines that are slow, broken, huge or hostile: always an answer, in time, asked for once."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict_families
from prometheus_client.parser import text_string_to_metric_families

from engine_double import running_double
from patio.engine.base import EngineView
from patio.metrics import pages, scrape
from patio.metrics.pages import Page
from patio.metrics.rewrite import PIECE, Format, Rewritten, rewrite
from patio.metrics.scrape import LEAST, LONGEST, Scraper, allowed
from patio.metrics.self_metrics import SelfMetrics
from patio.routes.probes import add_probes
from patio_protocol.engines import EngineKind
from patio_testing.sidecar.builders import StartSidecar, eventually

TEXT = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 4\n"
READY = EngineView(ready=True, base_models=("tiny",), context_tokens=512)


@dataclass
class Engine:
    """An engine that answers with these bytes, once it may, and counts who asks."""

    answer: bytes = b""
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    requests: int = 0
    disconnects: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            disconnect = asyncio.ensure_future(reader.read(1))
            permission = asyncio.ensure_future(self.may_answer.wait())
            await asyncio.wait((permission, disconnect), return_when=asyncio.FIRST_COMPLETED)
            self.disconnects += disconnect.done()
            permission.cancel()
            disconnect.cancel()
            writer.write(self.answer)
            await writer.drain()
        writer.close()


def http(body: bytes, kind: str = Format.TEXT.value, status: str = "200 OK", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: {kind}\r\n"
    return f"{head}content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def scraping(
    answer: bytes, *, held: bool = False, view: Callable[[], EngineView] = lambda: READY
) -> AsyncIterator[tuple[Scraper, Engine]]:
    engine = Engine(answer)
    if not held:
        engine.may_answer.set()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    engine.port = server.sockets[0].getsockname()[1]
    async with httpx.AsyncClient(trust_env=False) as client:
        self_metrics = SelfMetrics(CollectorRegistry(), "1", "vllm", "")
        url = f"http://127.0.0.1:{engine.port}/metrics"
        scraper = Scraper(url, client, EngineKind.VLLM, ("patio",), self_metrics, view)
        yield scraper, engine
        await scraper.close()
    engine.may_answer.set()
    server.close()


def values(page: Page) -> dict[str, float]:
    families = text_string_to_metric_families(page.text.decode())
    return {
        sample.name + "".join(sample.labels.values()): sample.value for family in families for sample in family.samples
    }


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("0", None),
        ("-1", None),
        ("nan", None),
        ("10", 8.0),
        ("1.000000", 0.8),
        ("0.1", LEAST),
        ("0.000001", LEAST),
        ("1e9", LONGEST),
        ("inf", LONGEST),
    ],
)
def test_engine_has_less_time_than_the_scraper_waits(header: str | None, seconds: float | None) -> None:
    assert allowed(header) == pytest.approx(scrape.DEADLINE if seconds is None else seconds)


async def test_context_of_the_model_comes_from_the_last_poll() -> None:
    view = READY
    async with scraping(http(TEXT), view=lambda: view) as (scraper, engine):
        assert values(await scraper.page())["patio:model_context_tokensvllmtiny"] == 512
        view = EngineView(ready=False)
        assert not any("model_context" in name for name in values(await scraper.page()))
        assert engine.requests == 2


async def test_silent_engine_is_awaited_as_long_as_scraper_waits() -> None:
    async with scraping(http(TEXT), held=True) as (scraper, engine):
        metrics = values(await scraper.page(0.05))
        assert (metrics["patio:engine_up"], metrics["patio:engine_scrape_errors_totaltimeout"]) == (0, 1)
        await eventually(lambda: _value(engine.disconnects), "nobody waits any more, so the engine is not kept busy")
        engine.may_answer.set()
        assert values(await scraper.page())["patio:engine_up"] == 1


async def _value(value: int) -> int:
    return value


async def test_short_timeout_of_one_scraper_does_not_end_others() -> None:
    async with scraping(http(TEXT), held=True) as (scraper, engine):
        patient_page = asyncio.create_task(scraper.page(scrape.DEADLINE))
        assert values(await scraper.page(0.05))["patio:engine_up"] == 0
        engine.may_answer.set()
        assert values(await patient_page)["patio:engine_up"] == 1
        assert engine.requests == 1


async def test_scraper_that_comes_during_a_fetch_shares_it() -> None:
    async with scraping(http(TEXT), held=True) as (scraper, engine):
        pages = [asyncio.create_task(scraper.page()) for _ in range(32)]
        await eventually(lambda: _value(engine.requests), "the engine was asked")
        pages += [asyncio.create_task(scraper.page()) for _ in range(32)]
        engine.may_answer.set()
        assert len({page.text for page in await asyncio.gather(*pages)}) == 1
        assert engine.requests == 1
        await scraper.page()
        assert engine.requests == 2


async def test_huge_answer_is_dropped_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "LARGEST", 2 * len(TEXT))
    async with scraping(http(TEXT * 3, length=2**40)) as (scraper, _):
        metrics = values(await scraper.page())
        assert (metrics["patio:engine_up"], metrics["patio:engine_scrape_errors_totaltoo_large"]) == (0, 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http(TEXT, status="404 Not Found"), "status"),
        (http(TEXT, status="500 Internal Server Error"), "status"),
        (http(b"{}", kind="application/json"), "garbage"),
        (http(b"\x00\xff\xfe"), "garbage"),
        (http(TEXT, length=2 * len(TEXT)), "broken"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "broken"),
        (b"", "broken"),
    ],
    ids=["404", "500", "json", "binary", "cut off", "not http", "nothing"],
)
async def test_own_metrics_are_served_whatever_the_engine_answers(answer: bytes, reason: str) -> None:
    async with scraping(answer) as (scraper, _):
        metrics = values(await scraper.page())
        assert metrics["patio:engine_up"] == 0
        assert metrics[f"patio:engine_scrape_errors_total{reason}"] == 1
        assert any(name.startswith("patio:build_info") for name in metrics)


async def test_engine_with_no_metric_yet_is_up() -> None:
    async with scraping(http(b"")) as (scraper, _):
        assert values(await scraper.page())["patio:engine_up"] == 1


async def test_openmetrics_is_served_when_the_engine_serves_it() -> None:
    text = TEXT + b"# EOF\n"
    async with scraping(http(text, kind=Format.OPENMETRICS.value)) as (scraper, _):
        page = await scraper.page()
        assert page.form is Format.OPENMETRICS
        names = {family.name for family in strict_families(page.text.decode())}
        assert {"vllm:num_requests_running", "patio:num_requests_running", "patio:engine_up"} <= names


async def test_own_names_that_the_engine_has_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    text = TEXT + b"# TYPE patio:num_requests_running gauge\npatio:num_requests_running 9\n"
    async with scraping(http(text)) as (scraper, _):
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert values(await scraper.page())["patio:num_requests_running"] == 9
    (line,) = [record.getMessage() for record in caplog.records]
    assert "patio:num_requests_running" in line


async def test_failure_that_goes_on_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with scraping(http(b"", status="404 Not Found")) as (scraper, engine):
        with caplog.at_level(logging.INFO, "patio"):
            for _ in range(3):
                await scraper.page()
            engine.answer = http(TEXT)
            await scraper.page()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_scraper_that_names_its_timeout_is_answered_before(sidecar: StartSidecar) -> None:
    async with running_double() as double, sidecar(double) as client:
        double.fault("/metrics", delay=30)
        headers = {"x-prometheus-scrape-timeout-seconds": "0.25"}
        answer = await client._http.get("http://sidecar/metrics", headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, Format.TEXT.value)
        assert "patio:engine_up 0" in answer.text


async def test_openmetrics_goes_out_under_its_own_content_type(sidecar: StartSidecar) -> None:
    async with running_double() as double, sidecar(double) as client:
        kind = Format.OPENMETRICS.value
        double.fault("/metrics", status=200, body=TEXT.decode() + "# EOF\n", content_type=kind)
        answer = await client._http.get("http://sidecar/metrics")
        assert answer.headers["content-type"] == kind
        assert "patio:num_requests_running" in {family.name for family in strict_families(answer.text)}


async def test_short_limits_of_a_stranger_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with scraping(http(TEXT)) as (scraper, engine):
        with caplog.at_level(logging.INFO, "patio"):
            for _ in range(10):
                engine.may_answer.clear()
                await scraper.page(0.001)
                engine.may_answer.set()
                await scraper.page()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def large(size: int) -> bytes:
    """Return a text of many series, of families that are renamed, derived and left alone."""
    lines = [b"# HELP vllm:num_requests_running x\n# TYPE vllm:num_requests_running gauge\n"]
    lines += [b'vllm:num_requests_running{engine="%d",model_name="m"} 1.0\n' % number for number in range(size // 300)]
    lines.append(b"# TYPE vllm:lora_requests_info gauge\n")
    lines += [
        b'vllm:lora_requests_info{max_lora="4",running_lora_adapters="a%d"} %d\n' % (number, number)
        for number in range(2000)
    ]
    lines.append(b"# TYPE other:thing gauge\n")
    lines += [b'other:thing{a="%d"} 1.0\n' % number for number in range(size // 60)]
    return b"".join(lines)


async def test_large_text_is_rewritten_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    text = large(3 * PIECE)
    threads = []

    def recording_rewrite(*args: Any) -> Rewritten:
        threads.append(threading.current_thread())
        return rewrite(*args)

    monkeypatch.setattr(scrape, "rewrite", recording_rewrite)
    async with scraping(http(text)) as (scraper, engine):
        page = await scraper.page()
        assert page.text.startswith(text)
        assert values(page)["patio:lora_slots_usedvllm"] == 1
        assert page.text.count(b"\npatio:num_requests_running{") == 3 * PIECE // 300
        engine.answer = http(TEXT)
        await scraper.page()
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


async def test_page_is_compressed_once_for_all() -> None:
    async with scraping(http(large(3 * PIECE))) as (scraper, _):
        page = await scraper.page()
        first, second = await asyncio.gather(scraper.packed(page), scraper.packed(page))
        assert first is second
        assert gzip.decompress(first) == page.text


async def test_large_pages_being_sent_are_bounded() -> None:
    async with scraping(http(large(3 * PIECE))) as (scraper, _):
        held_pages = [await scraper.page() for _ in range(scrape.LARGE_PAGES)]
        assert values(await scraper.page())["patio:engine_scrape_errors_totalbusy"] == 1
        held_pages.pop()
        assert (await scraper.page()).large


async def test_line_without_an_end_is_garbage() -> None:
    text = TEXT + b'a{b="' + b"c" * 2 * PIECE + b'"} 1\n'
    async with scraping(http(text)) as (scraper, _):
        assert values(await scraper.page())["patio:engine_scrape_errors_totalgarbage"] == 1


async def test_compressed_answer_is_not_unpacked() -> None:
    body = gzip.compress(TEXT)
    answer = http(body, kind=f"{Format.TEXT.value}\r\ncontent-encoding: gzip")
    async with scraping(answer) as (scraper, _):
        assert values(await scraper.page())["patio:engine_scrape_errors_totalgarbage"] == 1


async def test_reader_that_stops_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SEND_SECONDS", 0.05)
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)
        await asyncio.Event().wait()

    await Page((b"x" * 2 * PIECE,)).send(send, None)
    assert len(messages) == 1, "nothing says that the answer is whole"


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_large_page_arrives_whole(coding: str) -> None:
    text = large(4 * PIECE)
    async with scraping(http(text)) as (scraper, _):
        app = FastAPI()
        add_probes(app, None, None, scraper)  # type: ignore[arg-type]  # of its routes only one is asked
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            answer = await client.get("/metrics", headers={"accept-encoding": coding})
    assert answer.content.startswith(text)
    assert b"\npatio:engine_up 1.0\n" in answer.content
    assert answer.headers.get("content-encoding", "identity") == coding
    assert coding == "gzip" or int(answer.headers["content-length"]) == len(answer.content)

"""Polls of an engine: what running requests may still read, whatever the list says by now."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from engine_double import running_double
from engine_double.samples import write_adapter
from patio.adapters.engine_monitor import EngineMonitor
from patio.engine.base import EngineView
from patio.engine.vllm import Vllm
from patio_testing.sidecar.builders import eventually


async def test_dropped_path_lingers_over_a_failed_poll(
    tmp_path: Path,
) -> None:
    old_path, new_path = (str(write_adapter(tmp_path / name)) for name in ("one", "two"))
    async with running_double() as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        monitor = EngineMonitor(engine, lambda view: None)
        await engine.load("a", old_path)
        await monitor.poll()
        assert monitor.lingering() == frozenset()
        await engine.replace("a", new_path)
        double.fault("/v1/models", status=500, times=1)
        assert (await monitor.poll()).adapters is None
        await monitor.poll()
        assert monitor.lingering() == {old_path}
        await double.crash()
        await monitor.poll()
        assert monitor.lingering() == frozenset()


async def test_path_lingers_no_longer_than_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_adapter(tmp_path / "one"))
    async with running_double() as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        monitor = EngineMonitor(engine, lambda view: None)
        await engine.load("a", path)
        await monitor.poll()
        await engine.unload("a")
        await monitor.poll()
        assert monitor.lingering() == {path}
        monkeypatch.setattr("patio.adapters.engine_monitor.LINGER", -1.0)
        assert monitor.lingering() == frozenset()


async def test_concurrent_polls_share_the_next_one(tmp_path: Path) -> None:
    async with running_double() as double, httpx.AsyncClient() as http:
        views_published: list[EngineView] = []
        monitor = EngineMonitor(Vllm(str(double), http, None), views_published.append)
        double.fault("/health", delay=0.2, times=1)
        first_poll = asyncio.create_task(monitor.poll())

        async def is_polled() -> bool:
            return not double.engine.core.faults.ordered

        await eventually(is_polled, "the first poll has begun")
        views = await asyncio.gather(*(monitor.poll() for _ in range(50)))
        assert len(double.calls("/health")) == 2, "none of them may count the poll that began before it"
        assert {id(view) for view in views} == {id(monitor.view)}
        assert views_published == [await first_poll, monitor.view]


async def test_one_of_many_concurrent_polls_may_be_cancelled() -> None:
    async with running_double() as double, httpx.AsyncClient() as http:
        monitor = EngineMonitor(Vllm(str(double), http, None), lambda view: None)
        double.fault("/health", delay=0.2, times=1)
        cancelled, other = (asyncio.create_task(monitor.poll()) for _ in range(2))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert (await other).ready
        assert len(double.calls("/health")) == 1


async def test_burst_of_polls_without_an_answer_is_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_double() as double, httpx.AsyncClient() as http:
        monitor = EngineMonitor(Vllm(str(double), http, None), lambda view: None)
        assert (await monitor.poll()).ready
        monkeypatch.setattr("patio.engine.http.POLL_SECONDS", 0.02)
        monkeypatch.setattr("patio.adapters.engine_monitor.UNRELIABLE_APART", 3600.0)
        double.fault("/health", delay=0.5)
        for _ in range(6):
            assert not (await monitor.poll()).ready
        assert monitor.view.ready
        monkeypatch.setattr("patio.adapters.engine_monitor.UNRELIABLE_APART", 0.0)
        for _ in range(2):
            await monitor.poll()
        assert not monitor.view.ready


async def test_answer_that_breaks_a_poll_makes_engine_unready(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_double() as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        monitor = EngineMonitor(engine, lambda view: None)
        assert (await monitor.poll()).ready

        async def failing_view() -> EngineView:
            raise RecursionError("too deep")

        with monkeypatch.context() as patched:
            patched.setattr(engine, "view", failing_view)
            for _ in range(3):
                view = await monitor.poll()
        assert (view.ready, view.listening) == (False, True)
        assert "RecursionError" in view.problem
        assert caplog.text.count("engine poll failed") == 1
        assert (await monitor.poll()).ready

"""Polls of an engine: what requests under way may still read, whatever the list says by now."""

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
    one, two = (str(write_adapter(tmp_path / name)) for name in ("one", "two"))
    async with running_double() as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        looks = EngineMonitor(engine, lambda view: None)
        await engine.load("a", one)
        await looks.poll()
        assert looks.lingering() == frozenset()
        await engine.replace("a", two)
        double.fault("/v1/models", status=500, times=1)
        assert (await looks.poll()).adapters is None
        await looks.poll()
        assert looks.lingering() == {one}
        await double.crash()
        await looks.poll()
        assert looks.lingering() == frozenset()


async def test_path_lingers_no_longer_than_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = str(write_adapter(tmp_path / "one"))
    async with running_double() as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        looks = EngineMonitor(engine, lambda view: None)
        await engine.load("a", one)
        await looks.poll()
        await engine.unload("a")
        await looks.poll()
        assert looks.lingering() == {one}
        monkeypatch.setattr("patio.adapters.engine_monitor.LINGER", -1.0)
        assert looks.lingering() == frozenset()


async def test_concurrent_polls_share_the_next_one(tmp_path: Path) -> None:
    async with running_double() as double, httpx.AsyncClient() as http:
        seen: list[EngineView] = []
        looks = EngineMonitor(Vllm(str(double), http, None), seen.append)
        double.fault("/health", delay=0.2, times=1)
        first = asyncio.create_task(looks.poll())

        async def asked() -> bool:
            return not double.engine.core.faults.ordered

        await eventually(asked, "the first look is under way")
        views = await asyncio.gather(*(looks.poll() for _ in range(50)))
        assert len(double.calls("/health")) == 2, "none of them may count the look that began before it"
        assert {id(view) for view in views} == {id(looks.view)}
        assert seen == [await first, looks.view]


async def test_one_of_many_concurrent_polls_may_be_cancelled() -> None:
    async with running_double() as double, httpx.AsyncClient() as http:
        looks = EngineMonitor(Vllm(str(double), http, None), lambda view: None)
        double.fault("/health", delay=0.2, times=1)
        leaving, staying = (asyncio.create_task(looks.poll()) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).ready
        assert len(double.calls("/health")) == 1


async def test_burst_of_polls_without_an_answer_is_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_double() as double, httpx.AsyncClient() as http:
        looks = EngineMonitor(Vllm(str(double), http, None), lambda view: None)
        assert (await looks.poll()).ready
        monkeypatch.setattr("patio.engine.http.POLL_SECONDS", 0.02)
        monkeypatch.setattr("patio.adapters.engine_monitor.UNRELIABLE_APART", 3600.0)
        double.fault("/health", delay=0.5)
        for _ in range(6):
            assert not (await looks.poll()).ready
        assert looks.view.ready
        monkeypatch.setattr("patio.adapters.engine_monitor.UNRELIABLE_APART", 0.0)
        for _ in range(2):
            await looks.poll()
        assert not looks.view.ready


async def test_answer_that_breaks_a_poll_makes_engine_unready(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_double() as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        looks = EngineMonitor(engine, lambda view: None)
        assert (await looks.poll()).ready

        async def broken() -> EngineView:
            raise RecursionError("too deep")

        with monkeypatch.context() as patched:
            patched.setattr(engine, "view", broken)
            for _ in range(3):
                view = await looks.poll()
        assert (view.ready, view.listening) == (False, True)
        assert "RecursionError" in view.problem
        assert caplog.text.count("engine poll failed") == 1
        assert (await looks.poll()).ready

"""Looks at an engine: what requests under way may still read, whatever the list says by now."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from engine_double import running_double
from engine_double.samples import write_adapter
from patio.adapters.looks import Looks
from patio.engine.vllm import Vllm


async def test_a_path_that_left_the_list_lingers_though_a_look_failed_in_between_and_goes_with_the_engine(
    tmp_path: Path,
) -> None:
    one, two = (str(write_adapter(tmp_path / name)) for name in ("one", "two"))
    async with running_double() as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        looks = Looks(engine, lambda view: None)
        await engine.load("a", one)
        await looks.look()
        assert looks.lingering() == frozenset()
        await engine.replace("a", two)
        double.fault("/v1/models", status=500, times=1)
        assert (await looks.look()).adapters is None
        await looks.look()
        assert looks.lingering() == {one}
        await double.crash()
        await looks.look()
        assert looks.lingering() == frozenset()


async def test_a_path_lingers_no_longer_than_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = str(write_adapter(tmp_path / "one"))
    async with running_double() as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        looks = Looks(engine, lambda view: None)
        await engine.load("a", one)
        await looks.look()
        await engine.unload("a")
        await looks.look()
        assert looks.lingering() == {one}
        monkeypatch.setattr("patio.adapters.looks.LINGER", -1.0)
        assert looks.lingering() == frozenset()

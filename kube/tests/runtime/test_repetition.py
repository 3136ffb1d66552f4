"""The operator's start: what has to be there first, and a signal that comes before it is."""

from __future__ import annotations

import asyncio

import pytest

from patio_kube.runtime.repetition import until_done
from patio_testing.deadline import DEADLINE


async def test_signal_ends_a_start_that_waits_for_the_api_server() -> None:
    stop, tried = asyncio.Event(), asyncio.Event()

    async def fails() -> str:
        tried.set()
        return "the API server does not answer"

    starting = asyncio.create_task(until_done("key", fails, stop))
    async with asyncio.timeout(DEADLINE):
        await tried.wait()
        stop.set()
        assert not await starting


async def test_start_goes_on_once_what_it_needs_is_there() -> None:
    problems: list[str | None] = ["not yet", None]

    async def later() -> str | None:
        return problems.pop(0)

    async with asyncio.timeout(DEADLINE):
        assert await until_done("key", later, asyncio.Event())


async def test_start_goes_on_with_what_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    async def forbidden() -> str | None:
        return "patching is forbidden"

    async with asyncio.timeout(DEADLINE):
        assert await until_done("key", forbidden, asyncio.Event(), lambda: True)
    assert "key: patching is forbidden" in caplog.text


async def test_what_breaks_at_the_start_is_not_hidden() -> None:
    async def breaks() -> str | None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await until_done("key", breaks, asyncio.Event())

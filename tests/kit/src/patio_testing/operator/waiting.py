"""Tests wait for conditions, never for time: with one deadline, long enough for a busy machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from patio_testing.deadline import DEADLINE


async def until(what: str, condition: Callable[[], object], seen: Callable[[], object] = lambda: "") -> None:
    """Return once the condition holds; fail with what was waited for and seen last."""
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what}: seen last: {seen()!r}"
        await asyncio.sleep(0.005)


async def eventually(what: str, seen: Callable[[], Any], expected: Any) -> None:
    """Return once exactly this is seen."""
    await until(what, lambda: seen() == expected, seen)

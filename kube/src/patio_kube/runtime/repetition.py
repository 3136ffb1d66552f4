"""Work that is repeated: until it is done, at the start, and again and again after that."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from patio_protocol.backoff import exponential, with_jitter

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.8
LONGEST_PAUSE = 15.0
"""Seconds between tries of what has to be done at the start."""

Check = Callable[[], Awaitable[str | None]]
"""Does something; returns why it could not be done, if it could not."""


async def until_done(what: str, check: Check, stop: asyncio.Event, enough: Callable[[], bool] = lambda: False) -> bool:
    """Repeat until there is no problem: at its start an operator has nothing else to do.

    Args:
        what: what is checked, for the log.
        check: makes one pass, and returns what is wrong.
        stop: set when the operator is to end.
        enough: whether it can work in spite of a problem. The problem is logged.

    Returns:
        Whether it is done; False: the operator is to end first.

    """

    async def repeat() -> None:
        failures = 0
        while (problem := await check()) is not None:
            if enough():
                log.warning("%s: %s", what, problem)
                return
            failures += 1
            jitter = random.random()  # noqa: S311 - jitter only
            pause = with_jitter(exponential(FIRST_PAUSE, LONGEST_PAUSE, failures), jitter)
            log.warning("%s: not ready, retrying in %.1f s: %s", what, pause, problem)
            await asyncio.sleep(pause)

    repeating, stopping = asyncio.create_task(repeat(), name=what), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((repeating, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not repeating.done():
            return False
        repeating.result()
        return True
    finally:
        for task in (repeating, stopping):
            task.cancel()
        await asyncio.gather(repeating, stopping, return_exceptions=True)


async def every(seconds: float, what: str, check: Check) -> None:
    """Repeat until cancelled. A failure is logged and ends nothing."""
    while True:
        await asyncio.sleep(seconds)
        try:
            problem = await check()
        except Exception as error:  # noqa: BLE001 - the outermost place: it ends nothing else
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            log.warning("%s not checked: %s", what, problem)

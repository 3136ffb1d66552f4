"""How late the event loop is: whatever holds it delays the Lease, admissions and long-polls alike.

A timer that is due every `EVERY_SECONDS` is looked at when it runs. What is late by more than a slice
(`runtime.time_slices`) says that something does not give others their turn, or that the process has too little CPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

EVERY_SECONDS = 0.1
"""Between two looks: a hold of 0.1 s is always seen, and a shorter one with the share of this time that it lasts."""


async def measure(observe: Callable[[float], None]) -> None:
    """Call `observe` with the seconds that each timer was late, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        deadline = loop.time() + EVERY_SECONDS
        await asyncio.sleep(EVERY_SECONDS)
        observe(max(0.0, loop.time() - deadline))

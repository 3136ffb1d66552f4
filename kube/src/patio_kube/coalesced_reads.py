"""Coalesced reads of the API server (Go calls it singleflight): each caller gets an answer not older than its question.

A caller who asks while a read is in progress waits for the next one, together with all others who ask until that one
starts: of two hundred pods that are created at once, two or three reads are made. Nothing is kept: this is no cache,
and what it returns is never stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Answer = TypeVar("Answer")


class CoalescedReads(Generic[Key, Answer]):
    """Shares the reads that `read` makes. Answers are shared too: no caller may change one."""

    def __init__(self, read: Callable[[Key], Awaitable[Answer]]) -> None:
        self._read = read
        self._to_start: dict[Key, asyncio.Task[Answer]] = {}
        self._started: dict[Key, asyncio.Task[Answer]] = {}

    async def get(self, key: Key) -> Answer:
        """Return the answer of a read that starts after this call; raise what it raised."""
        shared = self._to_start.get(key)
        if shared is None:
            shared = asyncio.create_task(self._start_after(key, self._started.get(key)), name=f"read {key}")
            shared.add_done_callback(_retrieve_exception)
            self._to_start[key] = shared
        return await asyncio.shield(shared)  # one asker that goes does not take the answer from the others

    async def _start_after(self, key: Key, before: asyncio.Task[Answer] | None) -> Answer:
        if before is not None:
            await asyncio.wait((before,))
        this = self._started[key] = self._to_start.pop(key)
        try:
            return await self._read(key)
        finally:
            if self._started.get(key) is this:
                del self._started[key]


def _retrieve_exception(task: asyncio.Task[Answer]) -> None:
    """Take note of what a read raised, if no caller is left."""
    if not task.cancelled():
        task.exception()

"""Reads bodies of requests within bounds: of each, of the time for it, and of all that are read or kept at a time.

Only so much of a body is kept as the caller looks at or sends on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request


class TooLargeError(Exception):
    """A body is larger than a body may be."""


class TooSlowError(Exception):
    """A body was not complete in time."""


class NoRoomError(Exception):
    """As many bytes of bodies are kept as may be."""


@dataclass(frozen=True)
class Body:
    """What is known of a body."""

    size: int
    kept: bytes | None
    """All of it; None if it is longer than what was asked for."""


class Bodies:
    """The memory for bodies."""

    def __init__(self, most: int, most_kept: int, seconds: float | None = None) -> None:
        """`most` bytes are in a body, which comes in `seconds` (None: Envoy limits it); `most_kept` are kept of all."""
        self._most = most
        self._seconds = seconds
        self._room = most_kept

    @asynccontextmanager
    async def read(self, request: Request, keep: int) -> AsyncIterator[Body]:
        """Read a body; keep it for the context if it has at most `keep` bytes.

        Raises:
            TooLargeError: it is larger than a body may be.
            TooSlowError: it was not complete in time.
            NoRoomError: the memory for bodies is used up.
            starlette.requests.ClientDisconnect: the client hung up.

        """
        size, taken = 0, 0
        parts: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    async for chunk in request.stream():
                        size += len(chunk)
                        if size > self._most:
                            raise TooLargeError
                        if size > keep:
                            self._room += taken
                            taken, parts = 0, []
                            continue
                        if len(chunk) > self._room:
                            raise NoRoomError
                        self._room -= len(chunk)
                        taken += len(chunk)
                        parts.append(chunk)
            except TimeoutError:
                raise TooSlowError from None
            yield Body(size, b"".join(parts) if size <= keep else None)
        finally:
            self._room += taken

    @asynccontextmanager
    async def read_whole(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body and keep all of it for the context; raise what `read` raises."""
        async with self.read(request, self._most) as body:
            assert body.kept is not None
            yield body.kept

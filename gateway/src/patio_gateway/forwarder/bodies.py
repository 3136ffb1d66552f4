"""Reads bodies of requests within bounds: of each, of the time for it, and of all that are kept at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request


class TooLargeError(Exception):
    """A body is larger than a body may be."""


class TooSlowError(Exception):
    """A body was not complete in time."""


class NoRoomError(Exception):
    """As many bytes of bodies are kept as may be."""


class Bodies:
    """The memory for bodies."""

    def __init__(self, most: int, most_kept: int, seconds: float) -> None:
        """`most` bytes are in a body, which comes in `seconds`; `most_kept` are kept of all bodies together."""
        self.most = most
        self.seconds = seconds
        self._room = most_kept

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body; its memory is taken until the context ends.

        Raises:
            TooLargeError: it is larger than a body may be.
            TooSlowError: it was not complete in time.
            NoRoomError: the memory for bodies is used up.
            starlette.requests.ClientDisconnect: the client hung up.

        """
        taken = 0
        parts: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(self.seconds):
                    async for chunk in request.stream():
                        if taken + len(chunk) > self.most:
                            raise TooLargeError
                        if len(chunk) > self._room:
                            raise NoRoomError
                        self._room -= len(chunk)
                        taken += len(chunk)
                        parts.append(chunk)
            except TimeoutError:
                raise TooSlowError from None
            yield b"".join(parts)
        finally:
            self._room += taken

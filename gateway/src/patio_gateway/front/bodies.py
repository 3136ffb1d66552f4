"""Reads bodies of requests within bounds: of each, and of all that are read or kept at a time.

Only so much of a body is kept as the caller looks at. Envoy holds the whole body and sends it again itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request


class TooLargeError(Exception):
    """A body is larger than a body may be."""


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

    def __init__(self, most: int, most_kept: int) -> None:
        """`most` bytes are in a body, `most_kept` are kept of all bodies together."""
        self._most = most
        self._room = most_kept

    @asynccontextmanager
    async def read(self, request: Request, keep: int) -> AsyncIterator[Body]:
        """Read a body; keep it for the context if it has at most `keep` bytes.

        Raises:
            TooLargeError: it is larger than a body may be.
            NoRoomError: the memory for bodies is used up.
            starlette.requests.ClientDisconnect: the client hung up.

        """
        size, taken = 0, 0
        parts: list[bytes] = []
        try:
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
            yield Body(size, b"".join(parts) if size <= keep else None)
        finally:
            self._room += taken

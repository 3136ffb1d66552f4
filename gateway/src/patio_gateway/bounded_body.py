"""Reads the body of an answer that somebody else wrote, up to a bound."""

from __future__ import annotations

import httpx


class TooLongError(ValueError):
    """A body is longer than its bound."""


async def read_body(response: httpx.Response, most: int) -> bytes:
    """Return the body of a response that is being streamed.

    Raises:
        TooLongError: it has more than `most` bytes; the rest was not read.

    """
    parts, length = [], 0
    async for part in response.aiter_bytes():
        length += len(part)
        if length > most:
            raise TooLongError(f"longer than {most} bytes")
        parts.append(part)
    return b"".join(parts)

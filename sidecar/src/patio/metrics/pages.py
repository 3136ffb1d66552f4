"""What a scrape is answered with, and how it is sent: a small page at once, a large one packed and sent in slices.

`scrape` makes a `Page`, the route sends it. However many scrapes share a page, it is compressed once. A large page is
compressed on another thread and sent as fast as its reader reads: the event loop is never held up by it, and no
connection has a copy of its own.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from patio.metrics.rewrite import PIECE, Format

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SLICE = 64 * 1024
"""Bytes handed to the connection at once."""
SEND_SECONDS = 60.0
"""For a reader to take a large page; then the connection is closed."""


class Page:
    """A text, ready to be sent."""

    __slots__ = ("__weakref__", "_packed", "_packing", "form", "parts", "size")

    def __init__(self, parts: Iterable[bytes], form: Format = Format.TEXT) -> None:
        self.parts = tuple(parts)
        self.form = form
        self.size = sum(map(len, self.parts))
        self._packed: bytes | None = None
        self._packing: asyncio.Future[bytes] | None = None

    @property
    def large(self) -> bool:
        """Whether work on all of it would hold the event loop up."""
        return self.size > PIECE

    @property
    def text(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)

    async def packed(self, threads: ThreadPoolExecutor) -> bytes:
        """Return it compressed by gzip. It is compressed once, for the first caller."""
        if self._packed is None and not self.large:
            self._packed = gzip.compress(self.text, compresslevel=1, mtime=0)
        if self._packed is None:
            if self._packing is None:
                self._packing = asyncio.get_running_loop().run_in_executor(threads, _compress, self.parts)
            # A caller that hangs up does not cancel the others' answer.
            self._packed = await asyncio.shield(self._packing)
        return self._packed

    async def send(self, send: Send, packed: bytes | None) -> None:
        """Send a large page, or what it was compressed to, as fast as it is read; the head was sent."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                for part in _slices(self.parts if packed is None else (packed,)):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        except TimeoutError:
            # The server closes a connection whose answer is not whole.
            return
        await send({"type": "http.response.body", "body": b""})


def _slices(parts: Iterable[bytes]) -> Iterator[bytes]:
    for part in parts:
        for start in range(0, len(part), SLICE):
            yield part[start : start + SLICE] if len(part) > SLICE else part


def _compress(parts: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join((*(packer.compress(part) for part in parts), packer.flush()))

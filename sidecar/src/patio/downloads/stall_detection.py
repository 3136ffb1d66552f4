"""How much a source gives in the time that is spent waiting for it. Pure: the worker brings the clock and ends itself.

A source that drips holds one of few turns, and no time limit for a single read ever ends it. So a listing has a
deadline, and files have a least rate, counted over all of them and only while a source is waited for: a slow disk does
not count against the source.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LISTING_SECONDS = 300.0
"""For all pages of a listing."""
WINDOW_SECONDS = 120.0
LEAST_RATE = 16 * 1024
"""Bytes a second, over a window."""
FILE_BYTES = 64 * 1024
"""What a finished file counts for beside its bytes: many small ones take a request each."""


class StallDetector:
    """What one worker waits for. `tick` is called from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._listing = False
        self._waited = 0.0
        self._bytes = 0

    @contextmanager
    def listing(self) -> Iterator[None]:
        """Have a source list what it has."""
        self._listing, self._waited = True, 0.0
        try:
            yield
        finally:
            self._listing, self._waited = False, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for a source."""
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def chunks(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass on what a source gives."""
        iterator = iter(chunks)
        while True:
            with self.waiting():
                chunk = next(iterator, None)
            if chunk is None:
                return
            with self._lock:
                self._bytes += len(chunk)
            yield chunk

    def file_done(self) -> None:
        """Count a file."""
        with self._lock:
            self._bytes += FILE_BYTES

    def tick(self, seconds: float) -> str | None:
        """Count time that has passed; return why the source is too slow, if it is."""
        with self._lock:
            if self._listing:
                self._waited += seconds
                if self._waited < LISTING_SECONDS:
                    return None
                return f"The source did not list its files within {LISTING_SECONDS:g} s."
            if not self._waiting:
                return None
            self._waited += seconds
            if self._waited < WINDOW_SECONDS:
                return None
            received, self._bytes, self._waited = self._bytes, 0, 0.0
            if received >= LEAST_RATE * WINDOW_SECONDS:
                return None
            return (
                f"The source sent {received} bytes in {WINDOW_SECONDS:g} s, less than {LEAST_RATE} a second. Other "
                "downloads wait for their turn."
            )

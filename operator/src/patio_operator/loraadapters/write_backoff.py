"""Writes that the API server did not take, each object's by itself: when it is tried again, and what was said.

A policy that denies the writes of one object (403), or a webhook that does not answer for it, holds up nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from patio_protocol.backoff import exponential, with_jitter

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class _Failed:
    failures: int
    until: float
    message: str


class WriteBackoff:
    """Remembers the writes that failed, by the object's UID and what was written."""

    def __init__(self, clock: Callable[[], float], rng: random.Random) -> None:
        """`clock` counts seconds."""
        self._clock = clock
        self._rng = rng
        self._failed: dict[str, dict[str, _Failed]] = {}

    def wait(self, uid: str, what: str) -> float:
        """Return for how many seconds a write is not tried again; 0: it may be tried."""
        failed = self._failed.get(uid, {}).get(what)
        return 0.0 if failed is None else max(0.0, failed.until - self._clock())

    def message(self, uid: str, what: str) -> str | None:
        """Return what the API server said to a write that failed last; None: it did not fail."""
        failed = self._failed.get(uid, {}).get(what)
        return None if failed is None else failed.message

    def failed(self, uid: str, what: str, message: str) -> float:
        """Remember a failure; return for how many seconds not to try again."""
        of_object = self._failed.setdefault(uid, {})
        failures = of_object[what].failures + 1 if what in of_object else 1
        pause = with_jitter(exponential(FIRST_PAUSE, LONGEST_PAUSE, failures), self._rng.random())
        of_object[what] = _Failed(failures, self._clock() + pause, message)
        return pause

    def worked(self, uid: str, what: str) -> None:
        """Forget the failures of a write that was taken."""
        of_object = self._failed.get(uid)
        if of_object is not None and of_object.pop(what, None) is not None and not of_object:
            del self._failed[uid]

    def forget(self, uid: str) -> None:
        """Forget an object that is gone."""
        self._failed.pop(uid, None)

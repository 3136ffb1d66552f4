"""Which proofs were used already, for as long as they could be used again. Bounded; `now` is an argument."""

from __future__ import annotations

import math
from enum import Enum

from patio_protocol.authentication import LEEWAY, LIFETIME

KEPT = LIFETIME + 2 * LEEWAY
"""Seconds after which no proof that was good can be: signed by a clock that is ahead, taken by one that is behind."""
AT_MOST = 4096


class Use(Enum):
    """What becomes of a proof."""

    FIRST = "first"
    REUSED = "again"
    FULL = "full"
    """More proofs in `KEPT` seconds than are remembered: one that is not remembered is not taken."""


class UsedProofs:
    """Remembers the ids of proofs."""

    def __init__(self, at_most: int = AT_MOST) -> None:
        self._at_most = at_most
        self._kept: dict[str, tuple[float, float]] = {}
        """Until when it is remembered, and when the proof says that it ends."""
        self._forgotten = -math.inf
        """The latest end among the proofs that are no longer remembered."""

    def use(self, jti: str, exp: float, now: float) -> Use:
        """Take a proof, if it was not taken before.

        Args:
            jti: the proof's id.
            exp: when it ends, by the clock of who signed it.
            now: seconds that only ever pass (monotonic): a clock that is set forward forgets nothing.

        """
        for first in list(self._kept):
            until, end = self._kept[first]
            if until > now:
                break  # in the order of use, so those behind it end later
            self._forgotten = max(self._forgotten, end)
            del self._kept[first]
        # Was this clock set back, an old proof may look new again. It may be one of the forgotten ones.
        if jti in self._kept or exp <= self._forgotten:
            return Use.REUSED
        if len(self._kept) >= self._at_most:
            return Use.FULL
        self._kept[jti] = (now + KEPT, exp)
        return Use.FIRST

"""Which proofs were used already, for as long as they could be used again. Bounded; `now` is an argument."""

from __future__ import annotations

from enum import Enum

from patio.api.access_protocol import LEEWAY, LIFETIME

KEPT = LIFETIME + 2 * LEEWAY
"""Seconds after which no proof that was good can be: signed by a clock that is ahead, taken by one that is behind."""
AT_MOST = 4096


class Use(Enum):
    """What becomes of a proof."""

    FIRST = "first"
    AGAIN = "again"
    FULL = "full"
    """More proofs in `KEPT` seconds than are remembered: one that is not remembered is not taken."""


class UsedProofs:
    """Remembers the ids of proofs."""

    def __init__(self, at_most: int = AT_MOST) -> None:
        self._at_most = at_most
        self._until: dict[str, float] = {}

    def use(self, jti: str, now: float) -> Use:
        """Take a proof, if it was not taken before."""
        for first in list(self._until):
            if self._until[first] > now:
                break  # in the order of use, so those behind it end later
            del self._until[first]
        if self._until.get(jti, now) > now:
            return Use.AGAIN
        if len(self._until) >= self._at_most:
            return Use.FULL
        self._until[jti] = now + KEPT
        return Use.FIRST

"""How long the operator waits before it tries again: one rule, with jitter. Pure; the dice are an argument."""

from __future__ import annotations

from patio.pauses import growing, spread

FIRST_PAUSE = 0.8
LONGEST_PAUSE = 30.0
"""Seconds, as client-go has them for its watches."""


def pause_after(failures: int, jitter: float, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> float:
    """Return the seconds to wait after so many failures in a row, from 1 on, however many they are.

    Args:
        failures: how many.
        jitter: between 0 and 1: what failed at the same moment does not come back at the same moment.
        first: seconds after the first failure.
        longest: seconds that are never passed by more than the jitter.

    """
    return spread(growing(first, longest, failures), jitter)

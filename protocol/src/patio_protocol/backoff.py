"""Backoff: how long to wait before trying again. One rule for sidecar and operator. Pure; the dice are the caller's."""

from __future__ import annotations

MOST_DOUBLINGS = 32
"""Far beyond any longest pause; without an end, a thousand failures in a row are too large a number."""


def exponential(first: float, longest: float, failures: int) -> float:
    """Return the seconds to wait after so many failures in a row, from 1 on: doubled each time, up to `longest`."""
    return min(longest, first * 2.0 ** min(failures - 1, MOST_DOUBLINGS))


def with_jitter(pause: float, jitter: float) -> float:
    """Return a pause, longer by up to a third, so that many do not come at once. `jitter` is between 0 and 1."""
    return pause * (1.0 + 0.3 * jitter)

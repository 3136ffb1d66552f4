"""How many held requests of a model go on at a time: what its workers take, and as many again after a while. Pure.

A first worker would otherwise get a thousand requests in the moment in which it is ready, though a second worker that
is ready two seconds later could answer half of them. Front does not see when an answer ends, so time stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass

REFILL_SECONDS = 0.25
"""Until a worker that was filled is given as many requests again. Engines queue what is too much."""


@dataclass(frozen=True)
class Pace:
    """What may still go on: a bucket of tokens that time fills up to the workers' capacity."""

    capacity: int
    tokens: float
    at: float
    """The time for which `tokens` holds, in seconds."""


def started(capacity: int, now: float) -> Pace:
    """Return the pace of a model whose first workers have just become ready."""
    return Pace(capacity, float(capacity), now)


def moved(pace: Pace, capacity: int, now: float) -> Pace:
    """Return a pace at a later time, with the workers of that time: a new worker brings its own tokens."""
    filled = pace.tokens + pace.capacity * max(now - pace.at, 0.0) / REFILL_SECONDS
    filled += max(capacity - pace.capacity, 0)
    return Pace(capacity, min(filled, float(capacity)), now)


def spent(pace: Pace) -> Pace:
    """Return a pace after a request went on."""
    return Pace(pace.capacity, pace.tokens - 1.0, pace.at)


def next_token(pace: Pace) -> float:
    """Return when there is a whole token, in seconds of the same clock."""
    if pace.tokens >= 1.0:
        return pace.at
    # Up, so that rounding never asks just too early.
    return pace.at + (1.0 - pace.tokens) * REFILL_SECONDS / pace.capacity + 1e-6

"""Decides whether a start makes progress. Pure.

A fixed limit on a start is too short for a slow disk and too long for a hung one. `server` samples what the engine's
processes did, and gives up when nothing has moved for `stall_timeout`.
"""

from __future__ import annotations

from dataclasses import dataclass

BUSY_SHARE = 0.02
"""Of one core: engines that wait for each other use less, and one that works uses more."""


@dataclass(frozen=True)
class Activity:
    """What the engine's processes had done by a moment."""

    at: float
    """Seconds of a monotonic clock."""
    lines: int
    """Lines of output."""
    cpu_seconds: float
    bytes_read: int
    """By system calls: of disks, and of what is in the page cache."""


def made_progress(before: Activity, after: Activity) -> bool:
    """Whether anything moved between two samples.

    Less CPU time than before means that a process ended, which is a move too.
    """
    elapsed = max(after.at - before.at, 1e-9)
    worked = after.cpu_seconds - before.cpu_seconds
    return (
        after.lines != before.lines
        or after.bytes_read != before.bytes_read
        or worked < 0
        or worked / elapsed > BUSY_SHARE
    )

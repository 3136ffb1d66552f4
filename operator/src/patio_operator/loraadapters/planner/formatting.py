"""Names and numbers in sentences: what messages of the planner and the status have in common. Pure."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 3


def names(pods: Sequence[str]) -> str:
    """Return the first few of a list of pods, and how many more there are."""
    shown = ", ".join(pods[:SHOWN])
    return shown if len(pods) <= SHOWN else f"{shown} and {len(pods) - SHOWN} more"


def count(number: int, what: str = "pod") -> str:
    """Return a number of pods, or of something else."""
    return f"1 {what}" if number == 1 else f"{number} {what}s"

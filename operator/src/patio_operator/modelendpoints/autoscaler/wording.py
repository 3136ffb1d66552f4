"""Numbers, durations and names in the sentences of `planner`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from patio_operator.modelendpoints.autoscaler.demand import Demand

MOST_NAMES = 3


def demand_in_words(demand: Demand) -> str:
    """Say how much there is of what: `12 in flight and 30 held ask`."""
    parts = [
        f"{count} {name}"
        for count, name in ((demand.in_flight, "in flight"), (demand.held, "held"), (demand.queued, "queued"))
        if count
    ]
    verb = "asks" if demand.total == 1 else "ask"
    return f"{names_in_words(parts)} {verb}" if parts else "no request"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: `1 worker`, `no worker`, `2 workers`."""
    return f"{count or 'no'} {noun}{'s' if count > 1 else ''}"


def in_words(duration: timedelta) -> str:
    """Return a duration in its largest two units: `45 s`, `10 min`, `1 h 30 min`. Parts of a second are left out."""
    seconds = max(0, int(duration.total_seconds()))
    hours, minutes = divmod(seconds // 60, 60)
    if seconds < 120 and seconds % 60:
        return f"{seconds} s"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if seconds % 60 and minutes < 10:
        return f"{minutes} min {seconds % 60} s"
    return f"{minutes} min" if minutes else f"{seconds} s"


def names_in_words(names: Sequence[str]) -> str:
    """Return names as a list in a sentence, and how many more there are."""
    shown = [*names[:MOST_NAMES], *([f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"

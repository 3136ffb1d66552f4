"""What a step of the autoscaler keeps for the next ones: `ScalingMemory`, made by `advanced`. Pure.

The peaks of the last window are a deque in which demand falls strictly: a sample removes all smaller ones before it,
because they can no longer be the maximum. Samples of one bucket, a tenth of the window, are one peak that ends with the
bucket, so a peak holds for at least the window and at most a tenth longer. There are at most MOST_PEAKS of them.

`to_status` and `from_status` carry it over a change of leader. What is forgotten, or was not seen, makes the scale hold
for a window: `covers` says whether the whole window is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

MOST_PEAKS = 16
BUCKETS = 10
"""In a window."""
GAP = timedelta(seconds=30)
"""Time between two steps after which demand in between counts as not seen: three times `planner.LOOK_EVERY`."""
LARGEST = 10**9
"""The largest demand that is read back."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The greatest demand in one bucket of time."""

    end: int
    """When the bucket ends, in seconds of Unix time."""
    demand: int


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """What the steps until now have seen."""

    at: datetime
    """The last step."""
    complete_since: datetime
    """Since when each step has seen all demand."""
    last_activity: datetime
    """When there was, or may have been, a request or a loading worker."""
    peaks: tuple[Peak, ...] = ()
    """Oldest first, demand falling strictly; those without demand are left out."""

    def covers(self, window: timedelta) -> bool:
        """Tell whether all demand of the window before the last step is known."""
        return self.at - self.complete_since >= window

    @property
    def peak(self) -> int:
        """The greatest demand that the window has, as far as it is known."""
        return self.peaks[0].demand if self.peaks else 0


def advanced(
    memory: ScalingMemory | None,
    now: datetime,
    demand: int,
    window: timedelta,
    *,
    complete: bool,
    activity: datetime | None,
) -> ScalingMemory:
    """Return the memory after a step. Its size has a bound, and so has the work.

    Args:
        memory: of the step before; None when there is none.
        now: of this step.
        demand: that was seen.
        window: how long a peak is kept.
        complete: whether all demand was seen.
        activity: the last activity that was seen; None for none.

    """
    kept: tuple[Peak, ...] = ()
    complete_since = last_activity = now
    if memory is not None and now - memory.at >= -GAP:
        kept = memory.peaks
        if now - memory.at <= GAP and complete:
            complete_since = min(memory.complete_since, now)
            last_activity = min(max(memory.last_activity, activity or memory.last_activity), now)
    return ScalingMemory(now, complete_since, last_activity, _with_sample(kept, now, demand, window))


def _with_sample(peaks: tuple[Peak, ...], now: datetime, demand: int, window: timedelta) -> tuple[Peak, ...]:
    size = max(1, int(window.total_seconds()) // BUCKETS)
    end = (int(now.timestamp()) // size + 1) * size
    oldest = now.timestamp() - window.total_seconds()
    # No peak ends after the bucket of now: a clock that was set back, or a status that was edited, would hold for ever.
    kept = [Peak(min(peak.end, end), peak.demand) for peak in peaks if peak.end > oldest and peak.demand > demand]
    if demand:
        kept.append(Peak(end, demand))
    merged: list[Peak] = []
    for peak in kept:
        # Two of one bucket are one, of the greater demand, which is the earlier.
        if not merged or merged[-1].end < peak.end:
            merged.append(peak)
    while len(merged) > MOST_PEAKS:
        merged[:2] = [Peak(merged[1].end, merged[0].demand)]
    return tuple(merged)


def to_status(memory: ScalingMemory) -> dict[str, object]:
    """Return it as the value of a status field, of less than 2 KiB."""
    return {
        "at": memory.at.isoformat(),
        "completeSince": memory.complete_since.isoformat(),
        "lastActivity": memory.last_activity.isoformat(),
        "peaks": [{"end": peak.end, "demand": peak.demand} for peak in memory.peaks],
    }


def from_status(value: object) -> ScalingMemory | None:
    """Read what `to_status` wrote; None, which makes the scale hold, for everything else. Never raises."""
    if not isinstance(value, Mapping):
        return None
    moments = [_moment(value.get(name)) for name in ("at", "completeSince", "lastActivity")]
    at, complete_since, last_activity = moments
    entries = value.get("peaks")
    if at is None or complete_since is None or last_activity is None or not isinstance(entries, list):
        return None
    if len(entries) > MOST_PEAKS:
        return None
    peaks = [_peak(entry) for entry in entries]
    read = tuple(peak for peak in peaks if peak is not None)
    in_order = all(before.end < after.end and before.demand > after.demand for before, after in pairwise(read))
    if len(read) < len(peaks) or not in_order:
        return None
    return ScalingMemory(at, complete_since, last_activity, read)


def worth_writing(written: ScalingMemory | None, memory: ScalingMemory) -> bool:
    """Tell whether a status that has one of them should get the other.

    Times alone are not worth a write: a successor that reads old ones sees a gap, and holds.
    """
    return written is None or written.peaks != memory.peaks


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _peak(value: object) -> Peak | None:
    if not isinstance(value, Mapping):
        return None
    end, demand = value.get("end"), value.get("demand")
    if type(end) is not int or type(demand) is not int or not 0 < demand <= LARGEST:
        return None
    return Peak(end, demand) if abs(end) <= 10**12 else None

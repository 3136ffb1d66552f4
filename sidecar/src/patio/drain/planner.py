"""When a drain is over, from one count of the engine's requests after another. Pure.

`drain` counts; `observe` takes a count into the snapshot; `plan` says whether to go on. Clocks are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

BLIND_SECONDS = 10.0
"""How long a drain waits for an engine that does not report how many requests it has."""


class CountOutcome(StrEnum):
    """What counting found."""

    COUNTED = "counted"
    GONE = "gone"
    """Nothing listens: no request can be running."""
    BLIND = "blind"
    """It answers without numbers."""
    NO_ANSWER = "no answer"
    """Busy, perhaps; it says nothing either way."""


@dataclass(frozen=True, slots=True)
class RequestCount:
    """One count of the engine's requests."""

    outcome: CountOutcome
    running: int | None = None
    waiting: int | None = None

    @property
    def quiet(self) -> bool:
        """Whether the engine is known to have no request."""
        return self.outcome is CountOutcome.GONE or (
            self.outcome is CountOutcome.COUNTED and not self.running and not self.waiting
        )


@dataclass(frozen=True, slots=True)
class DrainSnapshot:
    """What was counted so far."""

    last: RequestCount = RequestCount(CountOutcome.NO_ANSWER)
    quiet_since: float | None = None
    quiet_counts: int = 0
    blind_since: float | None = None
    """Since when it answers without numbers."""
    counted: bool = False
    """Whether it ever reported numbers: then the drain waits until it does again."""
    has_left: bool = False
    """Whether the routers send nothing more, or could not be asked for so long that waiting for them is over."""


class DrainOutcome(StrEnum):
    """What a call for a drain is answered: the values of a metric's label."""

    DRAINED = "drained"
    REQUESTS = "requests"
    """The time was over, and the engine had requests, or had some a moment ago: they are cut if it stops now."""
    ROUTER = "router"
    """The time was over, and a router may still send requests; the engine had none."""
    UNKNOWN = "unknown"
    """The engine does not say how many requests it has."""


class DrainState(StrEnum):
    """What to do."""

    GO_ON = "go on"
    DRAINED = "drained"
    BLIND = "blind"
    """The engine reports nothing, and the time for that is over."""


def observe(snapshot: DrainSnapshot, count: RequestCount, has_left: bool, now: float) -> DrainSnapshot:
    """Return what is known after one more count. Quiet counts from when the routers were left."""
    snapshot = replace(
        snapshot, last=count, has_left=has_left, counted=snapshot.counted or count.outcome is CountOutcome.COUNTED
    )
    if count.outcome is CountOutcome.BLIND:
        snapshot = replace(snapshot, blind_since=now if snapshot.blind_since is None else snapshot.blind_since)
    elif count.outcome is not CountOutcome.NO_ANSWER:
        snapshot = replace(snapshot, blind_since=None)
    if not has_left or not count.quiet:
        return replace(snapshot, quiet_since=None, quiet_counts=0)
    since = now if snapshot.quiet_since is None else snapshot.quiet_since
    return replace(snapshot, quiet_since=since, quiet_counts=snapshot.quiet_counts + 1)


def plan(snapshot: DrainSnapshot, settle: float, now: float) -> DrainState:
    """Say whether the drain is over: two quiet counts in a row, `settle` seconds apart or more."""
    if not snapshot.has_left:
        return DrainState.GO_ON
    if snapshot.last.outcome is CountOutcome.GONE:
        return DrainState.DRAINED
    if snapshot.quiet_counts >= 2 and snapshot.quiet_since is not None and now - snapshot.quiet_since >= settle:
        return DrainState.DRAINED
    if snapshot.last.outcome is not CountOutcome.BLIND or snapshot.blind_since is None or snapshot.counted:
        return DrainState.GO_ON
    return DrainState.BLIND if now - snapshot.blind_since >= BLIND_SECONDS else DrainState.GO_ON


def outcome(snapshot: DrainSnapshot, state: DrainState, has_left: bool) -> DrainOutcome:
    """Return what a caller is answered now."""
    if state is DrainState.DRAINED:
        return DrainOutcome.DRAINED
    last = snapshot.last
    if state is DrainState.BLIND or last.outcome in (CountOutcome.NO_ANSWER, CountOutcome.BLIND):
        return DrainOutcome.UNKNOWN
    return DrainOutcome.ROUTER if last.quiet and not has_left else DrainOutcome.REQUESTS

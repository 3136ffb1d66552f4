"""When a drain is over, from one look at the engine after another. Pure.

`drain` looks; `after` keeps what counts of the looks; `verdict` says whether to go on. Clocks are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

BLIND_SECONDS = 10.0
"""How long a drain waits for an engine that does not tell how many requests it has."""


class Sight(StrEnum):
    """What a look at the engine found."""

    COUNTED = "counted"
    GONE = "gone"
    """Nothing listens: no request can be under way."""
    BLIND = "blind"
    """It answers, and tells no numbers."""
    NO_ANSWER = "no answer"
    """Busy, perhaps; it says nothing either way."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the engine."""

    sight: Sight
    running: int | None = None
    waiting: int | None = None

    @property
    def quiet(self) -> bool:
        """Whether the engine is known to have no request."""
        return self.sight is Sight.GONE or (self.sight is Sight.COUNTED and not self.running and not self.waiting)


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen so far."""

    last: Look = Look(Sight.NO_ANSWER)
    quiet_since: float | None = None
    quiet_looks: int = 0
    blind_since: float | None = None
    """Since when it answers and tells no numbers."""
    told: bool = False
    """Whether it ever told its numbers: then it is worth waiting until it does again."""
    left: bool = False
    """Whether the routers send nothing more, or could not be asked for so long that waiting for them is over."""


class Verdict(StrEnum):
    """What to do."""

    GO_ON = "go on"
    DRAINED = "drained"
    BLIND = "blind"
    """The engine tells nothing, and the time for that is over."""


def after(watch: Watch, look: Look, left: bool, now: float) -> Watch:
    """Return what is known after one more look. Quiet counts from when the routers were left."""
    watch = replace(watch, last=look, left=left, told=watch.told or look.sight is Sight.COUNTED)
    if look.sight is Sight.BLIND:
        watch = replace(watch, blind_since=now if watch.blind_since is None else watch.blind_since)
    elif look.sight is not Sight.NO_ANSWER:
        watch = replace(watch, blind_since=None)
    if not left or not look.quiet:
        return replace(watch, quiet_since=None, quiet_looks=0)
    since = now if watch.quiet_since is None else watch.quiet_since
    return replace(watch, quiet_since=since, quiet_looks=watch.quiet_looks + 1)


def verdict(watch: Watch, settle: float, now: float) -> Verdict:
    """Say whether the drain is over: two quiet looks in a row, `settle` seconds apart or more."""
    if not watch.left:
        return Verdict.GO_ON
    if watch.last.sight is Sight.GONE:
        return Verdict.DRAINED
    if watch.quiet_looks >= 2 and watch.quiet_since is not None and now - watch.quiet_since >= settle:
        return Verdict.DRAINED
    if watch.last.sight is not Sight.BLIND or watch.blind_since is None or watch.told:
        return Verdict.GO_ON
    return Verdict.BLIND if now - watch.blind_since >= BLIND_SECONDS else Verdict.GO_ON

"""How a poll of the engine changes what is known of the adapters. Pure.

`observe` takes an engine's answer into the snapshot and returns it with events for the log. It finds what is loaded,
lost, evicted, recovered, unloaded, or loaded again although it was unloaded. Clocks and dice are the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from patio.adapters.desired import Slot, returned, with_new_engine, with_removed, with_returned
from patio.adapters.progress import Progress, after_loss, after_rejection, after_success
from patio.adapters.snapshot import AdapterSnapshot, holds, with_progress
from patio.engine.base import EngineReason, EngineView
from patio.rejection import Rejection


@dataclass(frozen=True, slots=True)
class Event:
    """One line for the log: a level, a format, and what it is filled with."""

    level: int
    format: str
    args: tuple[object, ...] = ()


def observe(
    snapshot: AdapterSnapshot, view: EngineView, now: float, jitter: Callable[[], float]
) -> tuple[AdapterSnapshot, tuple[Event, ...]]:
    """Take in an engine's answer. `jitter` returns a number between 0 and 1."""
    events: list[Event] = []
    previous = snapshot.view
    if view.ready and not previous.ready:
        snapshot = replace(snapshot, life=snapshot.life + 1)
        events.append(Event(logging.INFO, "engine ready engine=%s life=%d", (snapshot.engine, snapshot.life)))
    elif previous.ready and not view.ready:
        events.append(Event(logging.WARNING, "engine not ready engine=%s problem=%s", (snapshot.engine, view.problem)))
    for name in lost(snapshot, view):
        snapshot, event = _without_lost(snapshot, view, name, now, jitter())
        events += event
    for name in recovered(snapshot, view):
        key = (name, Slot.ACTIVE)
        snapshot = with_progress(snapshot, key, after_success(snapshot.progress[key], now))
    snapshot, departed = depart(replace(snapshot, view=view))
    snapshot, back = _with_returned(snapshot, now, jitter)
    return snapshot, (*events, *departed, *back)


def depart(snapshot: AdapterSnapshot) -> tuple[AdapterSnapshot, tuple[Event, ...]]:
    """Forget the names on their way out that the engine no longer has."""
    names = removed(snapshot)
    if not names:
        return snapshot, ()
    event = Event(logging.INFO, "adapters removed adapters=%s", (",".join(sorted(names)),))
    return replace(snapshot, desired=with_removed(snapshot.desired, names)), (event,)


def evict(
    snapshot: AdapterSnapshot, name: str, by: str, now: float, jitter: float
) -> tuple[AdapterSnapshot, tuple[Event, ...]]:
    """Note that the engine dropped an adapter that is desired, to load another."""
    spec = snapshot.desired.spec(name)
    if spec is None:
        return snapshot, ()
    message = (
        f"The engine evicted the adapter to make room for {by}. Raise --max-loaded-loras, or place fewer adapters on "
        "this pod."
    )
    rejection = Rejection(EngineReason.EVICTED, message, retryable=False)
    progress = after_rejection(snapshot.progress_of(spec), rejection, now, jitter)
    event = Event(logging.WARNING, "adapter evicted adapter=%s by=%s", (name, by))
    return with_progress(snapshot, (name, Slot.ACTIVE), progress), (event,)


def removed(snapshot: AdapterSnapshot) -> frozenset[str]:
    """Return the names on their way out that the engine no longer lists, or whose engine is no more."""
    if not snapshot.view.listening:
        return snapshot.desired.leaving
    if snapshot.view.adapters is None:
        return frozenset()
    leaving = snapshot.desired.leaving - snapshot.view.adapters.keys()
    return frozenset(name for name in leaving if (name, Slot.ACTIVE) not in snapshot.running)


def lost(snapshot: AdapterSnapshot, view: EngineView) -> frozenset[str]:
    """Return what was loaded and is missing from the next view, though the engine stayed up and no action is running
    for it.
    """
    previous, current = snapshot.view.adapters, view.adapters
    if previous is None or current is None:
        return frozenset()
    return frozenset(
        name
        for name in previous.keys() - current.keys()
        if (spec := snapshot.desired.spec(name)) is not None
        and (name, Slot.ACTIVE) not in snapshot.running
        and holds(spec, previous[name])
    )


def recovered(snapshot: AdapterSnapshot, view: EngineView) -> frozenset[str]:
    """Return what had failed and is loaded all the same: an answer was lost, or a request made the engine load it."""
    listed = view.adapters or {}
    return frozenset(
        name
        for (name, slot), progress in snapshot.progress.items()
        if slot is Slot.ACTIVE
        and progress.rejection is not None
        and (name, slot) not in snapshot.running
        and (spec := snapshot.desired.spec(name)) is not None
        and holds(spec, listed.get(name))
    )


def full(view: EngineView, limit: int | None) -> bool:
    """Whether the engine may have evicted an adapter that is missing from this view: loading it evicts another."""
    return limit is not None and view.adapters is not None and len(view.adapters) + len(view.trials) >= limit


def _without_lost(
    snapshot: AdapterSnapshot, view: EngineView, name: str, now: float, jitter: float
) -> tuple[AdapterSnapshot, tuple[Event, ...]]:
    """Note that an adapter vanished from the engine's list."""
    if full(view, snapshot.capacity.loaded):
        return evict(snapshot, name, "another adapter", now, jitter)
    spec = snapshot.desired.spec(name)
    assert spec is not None
    progress = snapshot.progress_of(spec)
    if progress.rejection is not None:
        return snapshot, ()
    event = Event(logging.WARNING, "adapter lost adapter=%s losses=%d", (name, progress.losses + 1))
    return with_progress(snapshot, (name, Slot.ACTIVE), after_loss(progress, now, jitter)), (event,)


def _with_returned(
    snapshot: AdapterSnapshot, now: float, jitter: Callable[[], float]
) -> tuple[AdapterSnapshot, tuple[Event, ...]]:
    """Unload once more what a request made the engine load again after it was unloaded."""
    if not snapshot.view.listening:
        return replace(snapshot, desired=with_new_engine(snapshot.desired)), ()
    names = returned(snapshot.desired, snapshot.view.adapters or {})
    if not names:
        return snapshot, ()
    events: list[Event] = []
    for name in sorted(names):
        progress = snapshot.progress.get((name, Slot.ACTIVE), Progress())
        if progress.life != snapshot.life:
            progress = Progress(life=snapshot.life)
        fields = (name, progress.losses + 1)
        events.append(Event(logging.WARNING, "unloaded adapter loaded again by the engine adapter=%s times=%d", fields))
        snapshot = with_progress(snapshot, (name, Slot.ACTIVE), after_loss(progress, now, jitter()))
    return replace(snapshot, desired=with_returned(snapshot.desired, names)), tuple(events)

"""How many workers each revision of an endpoint has: `targets`. Pure.

As a Deployment with maxUnavailable 0: a new revision gets a few workers beside the old ones, and an old one goes only
when as many answer without it as are wanted. A worker of the new revision that fails to start stops this: nothing of
the old revisions goes any more, and they follow the demand. Old workers that do not answer anyway go first and at once.
A group loses its highest numbers, so an old worker that answers below one that does not is never counted on to stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from patio_operator.modelendpoints.planner.workers import GroupState, Worker

SURGE_SHARE = 4
"""One in so many workers more than wanted may there be while revisions change, and always one."""


@dataclass(frozen=True)
class Targets:
    """How many workers each revision is to have."""

    current: int
    old: tuple[int, ...] = ()
    """In the order of the groups that were given."""
    stopped_by: Worker | None = None
    """The worker of the new revision that fails to start, for which the roll has stopped."""


def targets(desired: int, current: GroupState | None, old: Sequence[GroupState]) -> Targets:
    """Return how many workers each revision is to have now.

    Args:
        desired: workers that are wanted.
        current: the revision that the spec asks for; None: its group does not exist yet.
        old: the other revisions, the oldest first.

    """
    if desired == 0:
        return Targets(0, tuple(0 for _ in old))
    if not any(state.group.workers for state in old):
        return Targets(desired, tuple(0 for _ in old))
    existing = current.group.workers if current is not None else 0
    ready = current.ready if current is not None else 0
    failing = current.failing if current is not None else ()
    needed = max(0, desired - ready)
    if failing:
        return Targets(min(existing, desired), _follow(needed, old), failing[0])
    left = _shrink(needed, old)
    surge = max(1, desired // SURGE_SHARE)
    # A group loses its highest numbers first: one below that does not answer may have to stay, and takes no place.
    answering = sum(worker.ready for state, number in zip(old, left, strict=True) for worker in state.workers[:number])
    room = desired + surge - answering
    return Targets(max(1, min(desired, room), min(existing, desired)), left)


def _follow(needed: int, old: Sequence[GroupState]) -> tuple[int, ...]:
    """Have old revisions bring the workers that are needed: the newest that answers grows, where they are too few."""
    numbers = list(_shrink(needed, old))
    growing = max(range(len(old)), key=lambda place: (old[place].ready > 0, place))
    numbers[growing] += max(0, needed - sum(numbers))
    return tuple(numbers)


def _shrink(needed: int, old: Sequence[GroupState]) -> tuple[int, ...]:
    """Take away, from the oldest on, the workers that do not answer and those that are not needed any more."""
    spare = sum(state.ready for state in old) - needed
    left = []
    for state in old:
        number = state.group.workers
        while number > 0:
            last = state.workers[number - 1]
            if last.ready and spare <= 0:
                break
            spare -= last.ready
            number -= 1
        left.append(number)
    return tuple(left)

"""Long computations that let others work in between. Pure.

A computation over a whole namespace is a generator: it yields often, and returns its result at its end. A shell runs it
some milliseconds at a time and gives the event loop a turn in between (`runtime.time_slices`); tests and small callers
run it at once (`finish`). Its input must not change meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

Incremental = Generator[None, None, T]

CHUNK = 200
"""Objects after which a loop lets others work."""


def run_to_end(steps: Incremental[T]) -> T:
    """Run a computation to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def in_chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Return a sequence in parts of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))

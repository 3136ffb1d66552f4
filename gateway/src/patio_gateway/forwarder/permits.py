"""How many requests are forwarded at a time: a permit each, from its start until its last byte.

With one process that is a count. Several share the limit by locks on the bytes of a file without a name: a permit is a
byte that a process has locked. The kernel gives the bytes of a process that was killed back, so none is ever lost.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any, Protocol


class Permits(Protocol):
    """Hands out permits, in the event loop alone."""

    def take(self) -> int | None:
        """Return a permit; None at the limit."""

    def give_back(self, permit: int) -> None:
        """Take a permit back."""


class OwnPermits:
    """The permits of a single process."""

    def __init__(self, limit: int) -> None:
        self._free = list(range(limit))

    def take(self) -> int | None:
        """Return a permit; None at the limit."""
        return self._free.pop() if self._free else None

    def give_back(self, permit: int) -> None:
        """Take a permit back."""
        self._free.append(permit)


class SharedPermits:
    """The permits of several processes, each of which gets this as an argument when it is spawned.

    POSIX locks belong to a process and not to a descriptor: what a process has locked already is kept here, since the
    kernel would lock it again.
    """

    def __init__(self, limit: int, descriptor: int | None = None) -> None:
        """`descriptor` is of the file; None makes it."""
        self._limit = limit
        if descriptor is None:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        self._descriptor = descriptor
        self._held: set[int] = set()
        self._next = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self._limit, DupFd(self._descriptor))

    def close(self) -> None:
        """Close the file, which gives all permits of this process back."""
        os.close(self._descriptor)

    def take(self) -> int | None:
        """Return a permit; None at the limit."""
        for offset in range(self._limit):
            permit = (self._next + offset) % self._limit
            if permit in self._held:
                continue
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, permit)
            except (BlockingIOError, PermissionError):
                continue
            self._held.add(permit)
            self._next = (permit + 1) % self._limit
            return permit
        return None

    def give_back(self, permit: int) -> None:
        """Take a permit back."""
        self._held.discard(permit)
        self._next = permit
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, permit)


def _received(limit: int, duplicate: Any) -> SharedPermits:
    return SharedPermits(limit, duplicate.detach())

"""Which folders of downloads this sidecar's engine uses, said to all who share the disk by locks that they see.

A shared lock on a revision's lock file, held as long as the revision is wanted or loaded: nobody, in this pod or in
another one on the same volume, removes it meanwhile. A sidecar that dies lets go of all, and takes them again when it
is back. Calls block on the disk: they are made in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from patio.downloads.names import is_revision
from patio.downloads.places import user_lock

log = logging.getLogger(__name__)


class Holds:
    """The locks of one sidecar. One thread at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[Path, int] = {}

    def take(self, folder: Path) -> bool:
        """Hold a folder; return whether it is there. What Patio did not fetch is nobody's to remove."""
        if is_revision(folder, self._root) and folder not in self._held and folder.is_dir():
            self._lock(folder)
        return folder.is_dir()

    def settle(self, wanted: Iterable[Path]) -> None:
        """Hold these folders and let go of others. One that a newer one replaced is removed, if nobody else has it."""
        folders = frozenset(folder for folder in wanted if is_revision(folder, self._root))
        for folder in folders:
            self.take(folder)
        for folder in [folder for folder in self._held if folder not in folders]:
            os.close(self._held.pop(folder))
            if any(other.parent == folder.parent for other in folders):
                from patio.downloads.disk import remove_unused  # as in `downloads`: for those who have any

                if remove_unused(folder):
                    log.info("older revision removed folder=%s", folder)

    def close(self) -> None:
        """Let go of everything."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def _lock(self, folder: Path) -> None:
        lock = user_lock(folder)
        # Where no lock can be made (a volume that is read-only, or not Patio's) nobody removes anything either.
        with contextlib.suppress(OSError):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                # Whoever removes a revision removes its lock file: then this is a lock on nothing.
                if not os.path.samestat(os.fstat(descriptor), lock.stat()):
                    raise FileNotFoundError(lock)
            except OSError:
                os.close(descriptor)
                raise
            self._held[folder] = descriptor

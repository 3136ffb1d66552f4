"""Which folders of downloads this sidecar's engine uses, said to all who share the disk by locks that they see.

A shared lock on the byte that stands for a revision, in the `.in-use` file of the root (or of an `output_dir`), held as
long as the revision is desired or loaded: no process, in this pod or in another one on the same volume, removes it
meanwhile. One descriptor holds all revisions of a root. The locks of a sidecar that dies are released, and the sidecar
takes them again after its restart. A folder that cannot be read counts as missing; it never ends anything. Calls block
on the disk: they are made in a thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from patio.downloads import locks
from patio.downloads.cache_keys import is_revision
from patio.downloads.layout import users_lock

log = logging.getLogger(__name__)


class Pins:
    """The locks of one sidecar. One thread at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[Path, int] = {}
        """Descriptors of the files that are locked."""
        self._pinned: set[Path] = set()
        self._without_locks: set[Path] = set()
        """Files without a lock, once each in the log."""

    def pin(self, folder: Path) -> bool:
        """Pin a folder; return whether it exists and stays. Patio never removes what it did not fetch."""
        if not is_there(folder):
            return False
        if not is_revision(folder, self._root) or folder in self._pinned:
            return True
        file, offset = users_lock(folder, self._root)
        try:
            if not self._lock(file, offset):
                return False  # another process is about to remove it
        except OSError as error:
            # Where nothing can be locked (a read-only volume, or one without locks), nothing is removed either.
            if file not in self._without_locks:
                self._without_locks.add(file)
                log.info("revisions used without a lock file=%s error=%s", file, error.strerror or error)
            return True
        if not is_there(folder):
            self._release(file, offset)
            return False
        self._pinned.add(folder)
        return True

    def sync(self, used: Iterable[Path]) -> None:
        """Pin these folders, unpin the others. A folder that a newer one replaced is removed unless others pin it."""
        folders = frozenset(folder for folder in used if is_revision(folder, self._root))
        for folder in folders:
            self.pin(folder)
        for folder in [folder for folder in self._pinned if folder not in folders]:
            self._pinned.discard(folder)
            self._release(*users_lock(folder, self._root))
            if any(other.parent == folder.parent for other in folders):
                from patio.downloads.disk import remove_unused  # as in `downloads`: for those who have any

                if remove_unused(folder, self._root):
                    log.info("older revision removed folder=%s", folder)

    @property
    def folders(self) -> frozenset[Path]:
        """The revisions that are pinned."""
        return frozenset(self._pinned)

    def close(self) -> None:
        """Unpin everything."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._pinned.clear()

    def _lock(self, file: Path, offset: int) -> bool:
        descriptor = self._files.get(file)
        if descriptor is None:
            descriptor = self._files[file] = locks.open_lock(file)
        return locks.lock_shared(descriptor, offset)

    def _release(self, file: Path, offset: int) -> None:
        descriptor = self._files.get(file)
        if descriptor is None:
            return
        try:
            locks.release(descriptor, offset)
        except OSError as error:
            log.warning("revision stays locked file=%s error=%s", file, error.strerror or error)


def is_there(folder: Path) -> bool:
    """Whether a folder exists now; on a disk that fails or denies access, none does."""
    # `Path.is_dir` of Python 3.11 raises EACCES, EIO and ESTALE.
    return os.path.isdir(folder)

"""Room for downloads: reserved before the first byte is asked for, so that several at once do not exceed the limit.

Each download in progress has a file in `.reserved` of the root, locked as long as its worker lives, that says how large
its folder will become. A worker that needs room counts what is on disk and what such folders still lack, under one
lock. So all sidecars that share a root count each other. Those that share a volume and not the root do not: between
them only the disk's own free space is compared, as it is where files cannot be locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patio.atomic_file import read_small
from patio.downloads import locks
from patio.downloads.disk import folders_down_to, removable, remove_unused, used
from patio.downloads.errors import DownloadError
from patio.downloads.layout import DownloadLayout, reservations, room_lock
from patio.downloads.planner import SPACE_LEFT
from patio_protocol.downloads import DownloadReason

ROOM_SECONDS = 60.0
"""For others to find their room."""
_LONGEST_NOTE = 8192
_MOST_NOTES = 1000


@dataclass(frozen=True, slots=True)
class _Reservation:
    folder: Path
    size: int
    """Bytes that the folder will have."""

    @property
    def lacking(self) -> int:
        """Bytes that are still to come."""
        return max(0, self.size - used(self.folder)) if self.folder.is_dir() else 0


@contextmanager
def reserved(layout: DownloadLayout, revision: str, root: Path, needed: int, limit: int | None) -> Iterator[None]:
    """Have room for so many more bytes in a revision's unfinished folder, and keep it.

    Unused revisions are removed if they do not fit. Raise `DownloadError` if that does not help.
    """
    partial = layout.partial(revision)
    if not needed or not _shared(root):
        _make(layout, revision, root, needed, limit, ())
        yield
        return
    with locks.locked(room_lock(root), ROOM_SECONDS):
        _make(layout, revision, root, needed, limit, _others(root))
        note = _written(root, partial, used(partial) + needed)
    try:
        yield
    finally:
        note.close()


class _Note:
    """A reservation of our own; it counts as long as its file is locked."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)


def _shared(root: Path) -> bool:
    """Make what a reservation takes, if it can be; a root that is not there is not made for it."""
    if not root.is_dir():
        return False
    try:
        folders_down_to(reservations(root))
    except (OSError, DownloadError):
        return False
    return os.access(reservations(root), os.W_OK | os.X_OK)


def _written(root: Path, folder: Path, size: int) -> _Note:
    path = reservations(root) / secrets.token_hex(8)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    note = _Note(path, descriptor)
    try:
        # Others may have this root mounted elsewhere.
        name = str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
        os.write(descriptor, json.dumps([name, size]).encode())
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Without locks, others could not see when it is over.
        with contextlib.suppress(OSError):
            path.unlink()
    return note


def _others(root: Path) -> tuple[_Reservation, ...]:
    """Return what is reserved by workers that live; strike off the others."""
    others = []
    with contextlib.suppress(OSError):
        for path in list(reservations(root).iterdir())[:_MOST_NOTES]:
            with contextlib.suppress(OSError, ValueError):
                if locks.is_free(path):
                    path.unlink()
                    continue
                folder, size = json.loads(read_small(path, _LONGEST_NOTE))
                others.append(_Reservation(root / str(folder), int(size)))
    return tuple(others)


def _make(
    layout: DownloadLayout, revision: str, root: Path, needed: int, limit: int | None, others: tuple[_Reservation, ...]
) -> None:
    if _lacking(layout, root, needed, limit, others) <= 0:
        return
    for unused in removable(layout, revision, root):
        if unused.name.startswith(".partial-"):
            shutil.rmtree(unused, ignore_errors=True)
        else:
            remove_unused(unused, root)
        if _lacking(layout, root, needed, limit, others) <= 0:
            return
    lacking = _lacking(layout, root, needed, limit, others)
    message = f"The download needs {needed} bytes, and {lacking} of them do not fit on the disk of {layout.revisions}"
    if limit is not None:
        message += f" or within PATIO_DOWNLOAD_LIMIT ({limit})"
    if reserved_bytes := sum(other.lacking for other in others):
        message += f"; {reserved_bytes} bytes are reserved for running downloads"
    raise DownloadError(DownloadReason.NO_SPACE, message + ".")


def _lacking(
    layout: DownloadLayout, root: Path, needed: int, limit: int | None, others: tuple[_Reservation, ...]
) -> int:
    free = os.statvfs(layout.revisions)
    device = os.stat(layout.revisions).st_dev
    reserved_bytes = sum(other.lacking for other in others if _device(other.folder) == device)
    lacking = needed + SPACE_LEFT + reserved_bytes - free.f_bavail * free.f_frsize if needed else 0
    if limit is not None and layout.revisions.is_relative_to(root):
        below = sum(other.lacking for other in others if other.folder.is_relative_to(root))
        lacking = max(lacking, needed + used(root) + below - limit)
    return lacking


def _device(folder: Path) -> int | None:
    with contextlib.suppress(OSError):
        return os.stat(folder).st_dev
    return None

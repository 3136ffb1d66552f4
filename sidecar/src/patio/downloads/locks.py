"""Locks by which processes, in this pod or in others on the same volume, keep out of each other's way.

A lock on a whole file (`flock`) says who writes to a folder. A lock on one byte of a file, chosen by the name of what
it is about, says who uses it: one descriptor is enough for any number of them. A process that dies lets go of all.
Every wait has a limit. Calls block on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patio.downloads.errors import DownloadError
from patio_protocol.downloads import DownloadReason

WRITER_SECONDS = 10.0
"""For a lock that was free a moment ago."""
_PAUSE = 0.05
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_HELD = (errno.EAGAIN, errno.EACCES)


def mode_like(folder: Path) -> int:
    """Return the permissions of what is made in a folder: as open as the folder is, so that those who share it can."""
    return folder.stat().st_mode & 0o777 | 0o700


def open_lock(path: Path, *, writable: bool = True) -> int:
    """Open a lock file, made if it is not there; one that another user made is opened for reading."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # others may have put a pipe there
    while True:
        try:
            return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | flags)
        except PermissionError:
            if not writable:
                raise
            return os.open(path, os.O_RDONLY | flags)
        except FileNotFoundError:
            pass
        mode = mode_like(path.parent) & 0o666
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, mode)
        except FileExistsError:
            continue
        os.fchmod(descriptor, mode)  # the umask is not asked
        return descriptor


@contextmanager
def locked(path: Path, seconds: float = WRITER_SECONDS) -> Iterator[bool]:
    """Hold a lock file; yield whether it had to be waited for. Raise `DownloadError` when it is not free in time."""
    descriptor = open_lock(path)
    try:
        yield _wait_for(descriptor, path, seconds)
    finally:
        os.close(descriptor)


def is_free(path: Path) -> bool:
    """Whether no process holds a lock file right now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _UNSUPPORTED
    else:
        return True
    finally:
        os.close(descriptor)


def is_unused(path: Path) -> bool:
    """Whether no process holds a lock file, shared or exclusive."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def offset_of(name: str) -> int:
    """Return the byte that stands for a name."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "big") >> 2


def lock_shared(descriptor: int, offset: int) -> bool:
    """Lock a byte, shared; return False if another process has an exclusive lock on it. Raise `OSError`."""
    return _byte(descriptor, offset, fcntl.F_RDLCK)


def lock_exclusive(descriptor: int, offset: int) -> bool:
    """Lock a byte, exclusive; return False if another process has a lock on it. Raise `OSError`."""
    return _byte(descriptor, offset, fcntl.F_WRLCK)


def release(descriptor: int, offset: int) -> None:
    """Unlock a byte."""
    _byte(descriptor, offset, fcntl.F_UNLCK)


def _byte(descriptor: int, offset: int, kind: int) -> bool:
    # struct flock of 64-bit Linux: type, whence, start, length, pid (0 for locks that belong to the descriptor).
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, offset, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _wait_for(descriptor: int, path: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    waited = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A network file system without locks: go on as if there were no other process.
            if error.errno in _UNSUPPORTED:
                return waited
            if error.errno not in _HELD:
                raise
        else:
            return waited
        waited = True
        if time.monotonic() >= deadline:
            message = f"Another process still writes to {path.parent} after {seconds:g} s."
            raise DownloadError(DownloadReason.BUSY, message)
        time.sleep(_PAUSE)

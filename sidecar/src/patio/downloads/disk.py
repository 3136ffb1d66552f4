"""The disk under a download: locks, what a broken-off attempt left, room, and changes that survive a crash.

Used by the worker (and `holds` for the locks). Every change that counts is a rename of something that was forced to
disk before, so that a crash at any moment leaves a folder whole or not there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from patio.api.downloads_protocol import DownloadReason
from patio.downloads.faults import DownloadFault
from patio.downloads.names import OWN, is_revision
from patio.downloads.places import Place, source_note, user_lock
from patio.downloads.plan import SPACE_LEFT, SYNC_STEP, OnDisk, RemoteFile

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Partial:
    """The folder of a revision that is being fetched: `files` has what was checked, `parts` what was not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self._parts = folder / "parts"
        self._boot = folder / "boot"

    def part(self, file: RemoteFile) -> Path:
        """Return where a file is written before it is checked; by a hash, as names may be long."""
        return self._parts / hashlib.sha256(file.name.encode()).hexdigest()[:32]

    def open(self, files: tuple[RemoteFile, ...]) -> OnDisk:
        """Make the folder, or say what an earlier attempt left in it."""
        for folder in (self.folder, self.files, self._parts):
            real_folder(folder)
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        if not boot or not self._boot.exists() or self._boot.read_text() != boot:
            # The machine, or another one, may have crashed since: what can not be trusted is cut off, and only then
            # the mark says that everything can.
            for file in files:
                if (size := _size(self.part(file))) is not None:
                    os.truncate(self.part(file), size - size % SYNC_STEP)
            replace_text(self._boot, boot)
        return OnDisk(
            whole={file.name: size for file in files if (size := _size(self.files / file.name)) is not None},
            begun={file.name: size for file in files if (size := _size(self.part(file))) is not None},
        )

    def keep(self, file: RemoteFile) -> None:
        """Move a file that was checked to its name."""
        for parent in reversed(PurePosixPath(file.name).parents[:-1]):
            real_folder(self.files / parent)
        self.part(file).rename(self.files / file.name)

    def finish(self, target: Path) -> None:
        """Put the folder, in one step, where it is looked for."""
        for folder, _, _ in os.walk(self.files):
            sync_folder(Path(folder))
        self.files.rename(target)
        sync_folder(target.parent)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; whoever else wants it, in whatever process or pod, waits."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # A network file system without locks: then it is as if nobody else were there.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(descriptor)


def is_free(path: Path) -> bool:
    """Whether nobody holds a lock file right now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
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


def remove_unused(folder: Path) -> bool:
    """Remove a revision unless somebody uses it; return whether it is gone."""
    lock = user_lock(folder)
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Away in one step: nobody must find half of it.
        trash = folder.with_name(f".trash-{folder.name}-{os.getpid()}")
        folder.rename(trash)
        lock.unlink(missing_ok=True)
        source_note(folder).unlink(missing_ok=True)
    except OSError:
        # In use, or on a file system without such locks: then nothing is removed.
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(trash, ignore_errors=True)
    return True


def make_room(place: Place, keep: str, root: Path, needed: int, limit: int | None) -> None:
    """See that so many bytes fit; remove what nobody uses if they do not. Raise `DownloadFault` when nothing helps."""
    lacking = _lacking(place, root, needed, limit)
    if lacking <= 0:
        return
    for unused in _removable(place, keep, root):
        if unused.name.startswith(".partial-"):
            shutil.rmtree(unused, ignore_errors=True)
        else:
            remove_unused(unused)
        lacking = _lacking(place, root, needed, limit)
        if lacking <= 0:
            return
    words = f"{needed} bytes are to be fetched, and {lacking} of them do not fit on the disk of {place.revisions}"
    if limit is not None:
        words += f" or within PATIO_DOWNLOAD_LIMIT ({limit})"
    raise DownloadFault(DownloadReason.NO_SPACE, words + ".")


def show(place: Place, revision: str) -> None:
    """Show a revision in the `output_dir`: links through one link, so that all files change at once."""
    shown = place.shown
    if shown is None:
        return
    current = place.revisions / "current"
    before = _names(current) if current.is_symlink() else frozenset()
    names = _names(place.folder(revision))
    _replace_link(current, Path(revision))
    for name in sorted(before - names):
        if (shown / name).is_symlink() and OWN in Path(os.readlink(shown / name)).parts:
            (shown / name).unlink()
            with contextlib.suppress(OSError):  # not empty: others have files there
                for parent in PurePosixPath(name).parents[:-1]:
                    (shown / parent).rmdir()
    for name in sorted(names):
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            real_folder(shown / parent)
        target = Path(*[".."] * name.count("/"), OWN, "current", name)
        if not ((shown / name).is_symlink() and Path(os.readlink(shown / name)) == target):
            _replace_link(shown / name, target)
    sync_folder(shown)


def replace_text(path: Path, text: str) -> None:
    """Write a small file for good."""
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def real_folder(folder: Path) -> None:
    """Make a folder, if it is not there; raise `DownloadFault` for a link in its place."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    if folder.is_symlink() or not folder.is_dir():
        words = f"{folder} is a link or a file; files are written to real folders only."
        raise DownloadFault(DownloadReason.INVALID, words)


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems over the network that have nothing to sync
            raise
    finally:
        os.close(descriptor)


def _lacking(place: Place, root: Path, needed: int, limit: int | None) -> int:
    free = os.statvfs(place.revisions)
    lacking = needed + SPACE_LEFT - free.f_bavail * free.f_frsize if needed else 0
    if limit is not None and place.revisions.is_relative_to(root):
        lacking = max(lacking, needed + _used(root) - limit)
    return lacking


def _used(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            total += _size(Path(path, name)) or 0
    return total


def _removable(place: Place, keep: str, root: Path) -> list[Path]:
    """Return what may go if nobody uses it: other revisions, oldest first, then broken-off attempts of others."""
    homes = {place.revisions}
    if root.is_dir():
        homes.update(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    revisions: list[Path] = []
    partials: list[Path] = []
    for home in homes:
        current = home / "current"
        shown = os.readlink(current) if current.is_symlink() else ""
        for path in home.iterdir():
            if path.is_symlink() or not path.is_dir() or (home == place.revisions and path.name == keep):
                continue
            if is_revision(path, root) and path.name != shown:
                revisions.append(path)
            elif _is_partial(path, root) and home != place.revisions and is_free(home / ".lock"):
                partials.append(path)
    return [*sorted(revisions, key=lambda path: path.stat().st_mtime), *partials]


def _is_partial(path: Path, root: Path) -> bool:
    name = path.name.removeprefix(".partial-")
    return name != path.name and is_revision(path.with_name(name), root)


def _size(path: Path) -> int | None:
    """Return the size of a file; None for what is none, links among them."""
    try:
        seen = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return seen.st_size if stat.S_ISREG(seen.st_mode) else None


def _replace_link(link: Path, target: Path) -> None:
    beside = link.with_name(f".{link.name[:200]}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    try:
        beside.replace(link)
    except IsADirectoryError:
        beside.unlink()
        words = f"{link} is a folder, and the source has a file of that name."
        raise DownloadFault(DownloadReason.INVALID, words) from None


def _names(folder: Path) -> frozenset[str]:
    """Return every file below a folder, relative to it."""
    return frozenset(str(Path(path, name).relative_to(folder)) for path, _, names in os.walk(folder) for name in names)

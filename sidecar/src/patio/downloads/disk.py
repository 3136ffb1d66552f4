"""The disk under a download: what a broken-off attempt left, what may be removed, and changes that survive a crash.

Used by the worker, and by `pins` to remove. Every change that counts is a rename of something that was forced to disk
before, so that a crash at any moment leaves a folder whole or not there. What is made in a folder is as open as the
folder: sidecars of several users may share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from pathlib import Path, PurePosixPath

from patio.atomic_file import read_small, replace_file, sync_folder
from patio.downloads import locks
from patio.downloads.cache_keys import PRIVATE_FOLDER, is_revision
from patio.downloads.errors import DownloadError
from patio.downloads.layout import DownloadLayout, source_note, users_lock
from patio.downloads.planner import SYNC_STEP, OnDisk, RemoteFile
from patio_protocol.downloads import DownloadReason

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
        for file in files:
            # Begun by a sidecar of another user: it can be removed, and not written to.
            if _size(self.part(file)) is not None and not os.access(self.part(file), os.W_OK):
                self.part(file).unlink()
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        if not boot or _text(self._boot) != boot:
            # The machine, or another one, may have crashed since: what cannot be trusted is cut off, and only then
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
        """Rename the folder, in one step, to its final place."""
        for folder, _, _ in os.walk(self.files):
            sync_folder(Path(folder))
        self.files.rename(target)
        sync_folder(target.parent)
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_unused(folder: Path, root: Path) -> bool:
    """Remove a revision unless it is in use; return whether it was removed."""
    file, offset = users_lock(folder, root)
    try:
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            return False  # of another user, whose files we could only hide
        descriptor = locks.open_lock(file)
    except OSError:
        return False
    try:
        if not locks.lock_exclusive(descriptor, offset) or not locks.is_unused(_old_lock(folder)):
            return False
        # Away in one step: no process must find half of it.
        trash = folder.with_name(f".trash-{folder.name}-{os.getpid()}")
        folder.rename(trash)
        source_note(folder).unlink(missing_ok=True)
        _old_lock(folder).unlink(missing_ok=True)
    except OSError:
        # On a file system without such locks, or one that cannot be written, nothing is removed.
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(trash, ignore_errors=True)
    return True


def _old_lock(folder: Path) -> Path:
    """Return the file that sidecars of before 0021 lock while they use a revision."""
    return folder.with_name(f".{folder.name}.lock")


def removable(layout: DownloadLayout, keep: str, root: Path) -> list[Path]:
    """Return what may go if it is not in use: other revisions, oldest first, then broken-off attempts of others."""
    homes = {layout.revisions}
    if root.is_dir():
        homes.update(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    revisions: list[tuple[float, Path]] = []
    partials: list[Path] = []
    for home in homes:
        with contextlib.suppress(OSError):  # one that cannot be read, or is removed meanwhile
            current = home / "current"
            shown = os.readlink(current) if current.is_symlink() else ""
            for path in home.iterdir():
                if path.is_symlink() or not path.is_dir() or (home == layout.revisions and path.name == keep):
                    continue
                if is_revision(path, root) and path.name != shown:
                    revisions.append((path.stat().st_mtime, path))
                elif _is_partial(path, root) and home != layout.revisions and locks.is_free(home / ".lock"):
                    partials.append(path)
    return [*(path for _, path in sorted(revisions)), *partials]


def used(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            total += _size(Path(path, name)) or 0
    return total


def show(layout: DownloadLayout, revision: str) -> None:
    """Show a revision in the `output_dir`: links through one link, so that all files change at once."""
    shown = layout.shown
    if shown is None:
        return
    current = layout.revisions / "current"
    previous_names = _names(current) if current.is_symlink() else frozenset()
    names = _names(layout.folder(revision))
    _replace_link(current, Path(revision))
    for name in sorted(previous_names - names):
        if (shown / name).is_symlink() and PRIVATE_FOLDER in Path(os.readlink(shown / name)).parts:
            (shown / name).unlink()
            with contextlib.suppress(OSError):  # not empty: others have files there
                for parent in PurePosixPath(name).parents[:-1]:
                    (shown / parent).rmdir()
    for name in sorted(names):
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            real_folder(shown / parent)
        target = Path(*[".."] * name.count("/"), PRIVATE_FOLDER, "current", name)
        if not ((shown / name).is_symlink() and Path(os.readlink(shown / name)) == target):
            _replace_link(shown / name, target)
    sync_folder(shown)


def replace_text(path: Path, text: str) -> None:
    """Write a small file and force it to disk."""
    replace_file(path, text.encode(), 0o644)


def real_folder(folder: Path) -> None:
    """Make a folder, if it is not there; raise `DownloadError` for a link in its place."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(locks.mode_like(folder.parent))
    if folder.is_symlink() or not folder.is_dir():
        message = f"{folder} is a link or a file. The sidecar writes files to real folders only."
        raise DownloadError(DownloadReason.INVALID, message)


def folders_down_to(folder: Path) -> None:
    """Make a folder and those above it, as far as they are not there."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            each.mkdir()
            each.chmod(locks.mode_like(each.parent))


def _is_partial(path: Path, root: Path) -> bool:
    name = path.name.removeprefix(".partial-")
    return name != path.name and is_revision(path.with_name(name), root)


def _text(path: Path) -> str:
    try:
        return read_small(path, 1024).decode(errors="replace")
    except OSError:
        return ""


def _size(path: Path) -> int | None:
    """Return the size of a file; None for what is none, links among them."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _replace_link(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name[:200]}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    try:
        temporary.replace(link)
    except IsADirectoryError:
        temporary.unlink()
        message = f"{link} is a folder, but the source has a file of that name."
        raise DownloadError(DownloadReason.INVALID, message) from None


def _names(folder: Path) -> frozenset[str]:
    """Return every file below a folder, relative to it."""
    return frozenset(str(Path(path, name).relative_to(folder)) for path, _, names in os.walk(folder) for name in names)

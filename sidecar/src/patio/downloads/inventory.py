"""Which sources have their files under the root, as a note beside each revision says: `.<revision>.source`; and how
much of the disk the root takes.

The worker writes the note when a revision is complete, the code that removes the revision removes its note, and
`Downloads` reads all notes. A note is a hint for the planner that chooses a pod, also on a disk that pods share;
nothing is loaded because of it. Calls block on the disk: they are made in a thread, or in the worker.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from patio.atomic_file import read_small
from patio.downloads.cache_keys import is_revision
from patio.downloads.layout import source_note
from patio_protocol.sources import parse_source

MOST_BYTES = 64 * 1024
"""Of a note that are read; a revision has few names."""
MOST_SOURCES = 10_000
"""Reported for one root."""
MOST_FILES = 100_000
"""Counted under one root; of a root with more, nothing is said."""


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Bytes of the root."""

    used: int
    """Of all files below it, also those that are removed when a download needs their room."""
    held: int
    """Of revisions that this pod's adapters use."""
    free: int
    """On its file system."""
    limit: int
    """That may lie under it: the setting, else the size of its file system."""


def disk_usage(root: Path, held: Set[Path], limit: int | None) -> DiskUsage | None:
    """Measure the root; None if it is not there, cannot be read, or has too many files.

    Args:
        root: the folder of downloads.
        held: folders of revisions that adapters use.
        limit: most bytes that may lie under the root; None: as many as its file system has.

    """
    total = total_held = files = 0
    try:
        disk = os.statvfs(root)
        for path, _, names in os.walk(root, onerror=_raise):
            folder = Path(path)
            is_held = bool(names) and not held.isdisjoint((folder, *folder.parents))
            files += len(names)
            if files > MOST_FILES:
                return None
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # others remove files meanwhile
                    size = os.lstat(os.path.join(path, name)).st_size
                    total += size
                    total_held += size if is_held else 0
    except OSError:
        return None
    size = disk.f_blocks * disk.f_frsize
    return DiskUsage(total, total_held, disk.f_bavail * disk.f_frsize, size if limit is None else limit)


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def sources_under(root: Path) -> frozenset[str]:
    """Return the sources that were fetched to the root and are still there."""
    sources: set[str] = set()
    with contextlib.suppress(OSError):
        for home in root.iterdir():
            with contextlib.suppress(OSError):
                for folder in home.iterdir():
                    if is_revision(folder, root) and folder.is_dir():
                        sources |= noted(folder)
                    if len(sources) > MOST_SOURCES:
                        return frozenset(sorted(sources)[:MOST_SOURCES])
    return frozenset(sources)


def noted(folder: Path) -> frozenset[str]:
    """Return the sources that one revision was fetched from. What is not one is skipped: others write there too."""
    try:
        lines = read_small(source_note(folder), MOST_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(line for line in lines if _is_source(line))


def _is_source(line: str) -> bool:
    try:
        return str(parse_source(line)) == line
    except ValueError:
        return False

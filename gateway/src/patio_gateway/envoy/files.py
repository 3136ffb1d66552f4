"""Writes the files that Envoy watches, each of them in one step, and only those that changed.

A file is replaced by a rename, which is what Envoy waits for; it never reads half of one. All of them are readable by
this user alone, since keys are in one. What no file names any more is deleted later, when Envoy has taken the new ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class Text(Protocol):
    """A file to write."""

    @property
    def name(self) -> str:
        """Its name within the folder."""

    @property
    def text(self) -> str:
        """All that it has."""


def make_folder(folder: Path) -> None:
    """Make a folder that only this user may enter; raise `OSError`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def write_changed(folder: Path, files: Iterable[Text]) -> list[str]:
    """Write the files whose text is another one than on disk, in their order; return their names. Raise `OSError`."""
    written = []
    for file in files:
        path = folder / file.name
        content = file.text.encode()
        if _holds(path, content):
            continue
        temporary = folder / f".{file.name}.new"
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            temporary.replace(path)
        except OSError:
            # Half of a file takes room on a disk that has none.
            temporary.unlink(missing_ok=True)
            raise
        written.append(file.name)
    return written


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def remove_others(folder: Path, keep: Iterable[str], patterns: Iterable[str]) -> None:
    """Delete the files of these patterns that are not to be kept; raise `OSError`."""
    kept = set(keep)
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.name not in kept:
                path.unlink(missing_ok=True)

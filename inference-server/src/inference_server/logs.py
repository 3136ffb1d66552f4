"""An engine's log files: previous ones are kept, large ones rotated, and what is written is followed line by line.

Engines write information to stdout, and errors and progress bars to stderr, with carriage returns; so both files are
read, and a carriage return ends a line. Only the last lines are kept in memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections import deque
from pathlib import Path
from typing import Sequence

KEPT_LINES = 4000
MAX_LINE = 2000
"""Characters of a line that are kept."""

MAX_READ = 4 * 1024 * 1024
"""Bytes read at a time. Of more than that the last ones are read: they say why an engine ended."""

BACKUPS = 3
"""How many older logs are kept, `.1` being the youngest."""

MAX_LOG = 256 * 1024 * 1024
"""Bytes of a log that is rotated, unless the caller says otherwise."""


def keep_previous(path: Path) -> None:
    """Move the previous run's log to the same name with `.1`, that one to `.2`, and forget the oldest."""
    if path.exists() and path.stat().st_size > 0:
        _shift(path)
        os.replace(str(path), str(path) + ".1")


def rotate(path: Path, limit: int) -> bool:
    """Copy a log that is larger than `limit` bytes to `.1` and empty it; return whether that was done.

    The engine has the file open and goes on writing, so the file itself cannot be moved. It writes at the end of the
    file, wherever that is (O_APPEND). What it writes between the end of the copy and the emptying is lost:
    microseconds.
    """
    try:
        if limit <= 0 or path.stat().st_size <= limit:
            return False
        _shift(path)
    except OSError:
        return False
    try:
        shutil.copyfile(str(path), str(path) + ".1")
        os.truncate(str(path), 0)
    except OSError:
        # Most likely the disk is full: half a copy would not make that better.
        with contextlib.suppress(OSError):
            os.unlink(str(path) + ".1")
        return False
    return True


def _shift(path: Path) -> None:
    for number in range(BACKUPS - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.replace("%s.%d" % (path, number), "%s.%d" % (path, number + 1))


class LogFollower:
    """The last lines of some files that are being written."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._offsets: dict[Path, int] = dict.fromkeys(paths, 0)
        self._partial: dict[Path, str] = dict.fromkeys(paths, "")
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._reading = threading.Lock()
        self.count = 0
        """How many lines there have been."""

    def read(self) -> list[str]:
        """Return the lines that came since the last call, from any thread."""
        with self._reading:
            return self._read()

    def _read(self) -> list[str]:
        new: list[str] = []
        for path in self._offsets:
            try:
                with path.open("rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    offset = self._offsets[path]
                    # A file that is shorter than before was rotated.
                    offset = 0 if size < offset else max(offset, size - MAX_READ)
                    file.seek(offset)
                    data = file.read(MAX_READ)
            except OSError:
                continue
            self._offsets[path] = offset + len(data)
            pieces = re.split(r"[\r\n]+", self._partial[path] + data.decode("utf-8", "replace"))
            self._partial[path] = pieces.pop()[-MAX_LINE:]
            new += [piece[:MAX_LINE] for piece in pieces if piece.strip()]
        self._lines.extend(new)
        self.count += len(new)
        return new

    def lines(self) -> list[str]:
        """Return the last lines, with one that is not finished."""
        return [*self._lines, *(text for text in self._partial.values() if text.strip())]

    def tail(self, count: int = 20) -> str:
        """Return the last lines as one text."""
        return "\n".join(self.lines()[-count:])

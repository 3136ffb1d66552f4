"""An engine's log files: the previous run's are kept, and what is written is followed line by line.

Engines write information to stdout, and errors and progress bars to stderr, with carriage returns; so both files are
read, and a carriage return ends a line. Only the last lines are kept in memory.
"""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path
from typing import Sequence

KEPT_LINES = 4000
MAX_LINE = 2000
"""Characters of a line that are kept."""

MAX_READ = 4 * 1024 * 1024
"""Bytes read at a time; an engine that writes more is read on at the next look."""


def keep_previous(path: Path) -> None:
    """Move the previous run's log to the same name with `.1`."""
    if path.exists() and path.stat().st_size > 0:
        os.replace(str(path), str(path) + ".1")


class LogFollower:
    """The last lines of some files that are being written."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._offsets: dict[Path, int] = dict.fromkeys(paths, 0)
        self._partial: dict[Path, str] = dict.fromkeys(paths, "")
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.count = 0
        """How many lines there have been."""

    def read(self) -> list[str]:
        """Return the lines that came since the last call."""
        new: list[str] = []
        for path in self._offsets:
            try:
                with path.open("rb") as file:
                    file.seek(self._offsets[path])
                    data = file.read(MAX_READ)
            except OSError:
                continue
            self._offsets[path] += len(data)
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

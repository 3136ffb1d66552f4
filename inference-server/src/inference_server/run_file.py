"""Writes `run.json` beside a server's logs, and finds the servers that run on this machine.

`server` notes its run here. The command line of a keeper names the file, so what runs is found among the processes: no
list can be out of date. Only this user's keepers are believed. A file that cannot be written never disturbs a server.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Sequence

from inference_server import processes
from inference_server.processes import Identity
from inference_server.run_record import RunRecord, record_of, to_text

NAME = "run.json"
MAX_FILE = 1024 * 1024
"""Bytes of a file that are read."""

KEEPER = os.path.join("inference_server", "keeper.py")
KEEPER_WORDS = 9
"""Interpreter, two options, the script, three descriptors, the owner, the file."""


class RunFile:
    """The file of one server, written by its owner alone."""

    def __init__(self, path: Path, logger: logging.Logger) -> None:
        self.path = path
        self._logger = logger
        self.record: RunRecord | None = None
        """What was written last."""
        self._writing = threading.Lock()

    def begin(self, record: RunRecord) -> None:
        """Begin a new run."""
        with self._writing:
            self.record = record
            self._write(record)

    def note(self, **changes: Any) -> None:
        """Change fields of the record; nothing happens before a run began."""
        with self._writing:
            if self.record is not None:
                self.record = replace(self.record, **changes)
                self._write(self.record)

    def _write(self, record: RunRecord) -> None:
        try:
            write_whole(self.path, to_text(record))
        except OSError as error:
            self._logger.warning("cannot write %s: %s", self.path, error)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees either the old content or the new one, never a part."""
    beside = "%s.%d" % (path, os.getpid())
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, str(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def read_record(path: Path) -> RunRecord | None:
    """Return what a file says, or None if there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE).decode("utf-8")
        return record_of(text)
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class RunningServer:
    """A server of this user that has a keeper."""

    keeper: Identity
    owner_pid: int
    path: Path
    record: RunRecord | None
    """None: the file is not there, not readable, or of another run that writes into the same directory."""


def running_servers() -> list[RunningServer]:
    """Return the servers of this user that run on this machine, in the order of their start. Linux only."""
    found = []
    for stat in processes.all_processes():
        if not stat.alive or not _is_ours(stat.identity.pid):
            continue
        words = processes.words_of(stat.identity.pid)
        if len(words) != KEEPER_WORDS or not words[3].endswith(KEEPER) or not words[7].isdigit():
            continue
        path = Path(words[8])
        record = read_record(path)
        if record is not None and record.keeper != stat.identity:
            record = None
        found.append(RunningServer(stat.identity, int(words[7]), path, record))
    return sorted(found, key=lambda server: (server.keeper.start, server.keeper.pid))


def is_running(record: RunRecord) -> bool:
    """Whether the run's keeper lives, and with it what it keeps."""
    return processes.is_alive(record.keeper)


def now_text() -> str:
    """Return the time, as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def own_versions() -> dict[str, str]:
    """Return the versions of this package and of Python."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for folder in sys.path:
        version = version_in(_names_in(folder))
        if version:
            return dict(found, inference_server=version)
    return found


def version_in(names: Sequence[str]) -> str:
    """Return this package's version by the names of what is installed beside each other, or an empty text. Pure.

    `importlib.metadata` would say it too, and imports more than the rest of a start.
    """
    matches = (re.match(r"patio_inference_server-(\d[^-]*)\.dist-info$", name) for name in names)
    return next((match.group(1) for match in matches if match), "")


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except OSError:
        return []


def _is_ours(pid: int) -> bool:
    try:
        return os.stat("%s/%d" % (processes.PROC, pid)).st_uid == os.getuid()
    except OSError:
        return False

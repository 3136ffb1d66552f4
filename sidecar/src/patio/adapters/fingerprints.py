"""What the sidecar can see of adapters' files: whether they changed since the engine rejected them, and for which base
model they were made.

A user corrects a bad adapter by correcting its files, and need not call the sidecar as well. A network file system
may hang: each read has a thread of its own, there is one at a time for a folder and a limit for all, and every wait
for one has a limit. Weights are never read.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import posixpath
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import TypeVar

from patio.bounded_json import read_json
from patio.threads import in_thread

_T = TypeVar("_T")

CONFIG = "adapter_config.json"
MOST_CONFIG = 1_048_576
"""Bytes of a configuration that is read."""
MOST_FILES = 10_000
"""Entries of a folder that are read."""
READS_AT_ONCE = 16
MOST_UNRESPONSIVE = 16
"""Folders that hang, each with a thread that waits for it, before no others are read."""
FOLDERS_A_ROUND = 32
"""Folders that are read in a round of `compare`; of more, each has its turn."""
READ_SECONDS = 3.0
"""After which a folder counts as one that hangs."""

Fingerprint = tuple[tuple[str, int, int], ...] | None
"""Name, size and time of change of the files that matter; None: the folder cannot be seen."""


class _Unread(Enum):
    UNREAD = auto()


_UNREAD = _Unread.UNREAD


@dataclass(frozen=True, slots=True)
class FolderContents:
    """What was read from an adapter's folder."""

    fingerprint: Fingerprint = None
    is_file: bool = False
    """There is a file in the place of the folder."""
    base_model: str = ""
    """The base model in the configuration; empty if it has none."""


class FolderUnresponsiveError(Exception):
    """The file system does not answer."""


def fingerprint(folder: str) -> Fingerprint:
    """Return what can be seen of an adapter folder."""
    try:
        files = []
        with os.scandir(folder) as entries:
            for entry in itertools.islice(entries, MOST_FILES):
                if entry.name == CONFIG or posixpath.splitext(entry.name)[1] == ".safetensors":
                    facts = entry.stat()
                    files.append((entry.name, facts.st_size, facts.st_mtime_ns))
        return tuple(sorted(files))
    except (OSError, ValueError):
        return None


def read_folder(folder: str) -> FolderContents:
    """Read an adapter folder."""
    prints = fingerprint(folder)
    if prints is None:
        return FolderContents(is_file=_is_file(folder))
    return FolderContents(prints, base_model=_base_model(posixpath.join(folder, CONFIG)))


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _base_model(config: str) -> str:
    try:
        # What is no file (a FIFO, a device) must not be waited for.
        descriptor = os.open(config, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            config_json = read_json(file.read(MOST_CONFIG + 1), MOST_CONFIG)
    except (OSError, ValueError):
        return ""
    name = config_json.get("base_model_name_or_path") if isinstance(config_json, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= 1024 and name.isprintable() else ""


class Fingerprints:
    """Fingerprints at the last attempt and at the last read, by adapter."""

    def __init__(self) -> None:
        self._attempted: dict[str, Fingerprint | _Unread] = {}
        self._last: dict[str, Fingerprint] = {}
        self._queue: deque[str] = deque()
        self._slots = asyncio.Semaphore(READS_AT_ONCE)
        self._running: dict[str, asyncio.Future[None]] = {}
        """By folder."""
        self._unresponsive: set[str] = set()
        self.changed: frozenset[str] = frozenset()
        """Adapters whose files differ from those at the attempt, and were the same at the last two reads: files
        that are still being copied are not loaded."""

    async def attempt(self, name: str, folder: str) -> FolderContents:
        """Remember what the coming attempt is made with; raise `FolderUnresponsiveError`."""
        contents = await self._read_in_thread(folder, read_folder)
        # If the folder could not be read, the first read counts as what the attempt was made with.
        self._attempted[name] = _UNREAD if contents is None else contents.fingerprint
        self._last.pop(name, None)
        self.changed -= {name}
        return contents or FolderContents()

    async def read(self, folder: str) -> FolderContents | None:
        """Read a folder without an attempt; None: not now."""
        with contextlib.suppress(FolderUnresponsiveError):
            return await self._read_in_thread(folder, read_folder)
        return None

    def forget(self, name: str) -> None:
        """Forget an adapter that is loaded or no longer wanted."""
        self._attempted.pop(name, None)
        self._last.pop(name, None)
        self.changed -= {name}

    def keep(self, names: Set[str]) -> None:
        """Forget all others."""
        for name in self._attempted.keys() - names:
            self.forget(name)

    async def compare(self, folders: Mapping[str, str]) -> None:
        """Read the folders of adapters that failed, some at a time."""
        folders = {name: folder for name, folder in folders.items() if name in self._attempted}
        self.changed &= folders.keys()
        queued = set(self._queue)
        self._queue = deque(name for name in self._queue if name in folders)
        self._queue.extend(name for name in folders if name not in queued)
        names = [self._queue.popleft() for _ in range(min(FOLDERS_A_ROUND, len(self._queue)))]
        self._queue.extend(names)
        await asyncio.gather(*(self._compare(name, folders[name]) for name in names))

    async def _compare(self, name: str, folder: str) -> None:
        try:
            result = await self._read_in_thread(folder, lambda folder: (fingerprint(folder),))
        except FolderUnresponsiveError:
            return
        if result is None or name not in self._attempted:
            return
        (current,) = result
        if self._attempted[name] is _UNREAD:
            self._attempted[name] = current
        same = name in self._last and current == self._last[name]
        if same and current != self._attempted[name]:
            self.changed |= {name}
        else:
            self.changed -= {name}
        self._last[name] = current

    async def _read_in_thread(self, folder: str, read: Callable[[str], _T]) -> _T | None:
        """Return what a question about a folder is answered with; None where too many folders hang to ask about
        another. Raise `FolderUnresponsiveError`.
        """
        deadline = time.monotonic() + READ_SECONDS
        while (running := self._running.get(folder)) is not None:
            if folder in self._unresponsive or time.monotonic() >= deadline:
                raise FolderUnresponsiveError
            await asyncio.wait([running], timeout=deadline - time.monotonic())
        if len(self._unresponsive) >= MOST_UNRESPONSIVE:
            return None
        finished = self._running[folder] = asyncio.get_running_loop().create_future()
        try:
            await self._slots.acquire()
        except BaseException:
            self._finish(folder, finished)
            raise
        reading = in_thread(partial(read, folder), "files")
        # Also when the caller leaves: the thread is still there.
        reading.add_done_callback(lambda _: self._finish(folder, finished))
        try:
            await asyncio.wait([reading], timeout=READ_SECONDS)
        finally:
            self._slots.release()
        if not reading.done():
            self._unresponsive.add(folder)
            raise FolderUnresponsiveError
        try:
            return reading.result()
        except (OSError, ValueError):
            return None

    def _finish(self, folder: str, finished: asyncio.Future[None]) -> None:
        if not finished.done():
            finished.set_result(None)
            del self._running[folder]
            self._unresponsive.discard(folder)

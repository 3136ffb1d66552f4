"""Whether an adapter's files changed since the engine refused them, as far as the sidecar can see them.

A user mends a bad adapter by mending its files; nobody should have to call the sidecar as well. Looked at only for
adapters whose last attempt failed, in a thread, since a network file system may hang. Contents are never read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

Fingerprint = tuple[tuple[str, int, int], ...] | None
"""Name, size and time of change of the files that matter; None: the folder can not be seen."""


def fingerprint(folder: str) -> Fingerprint:
    """Return what can be seen of an adapter folder."""
    try:
        seen = []
        for path in sorted(Path(folder).iterdir()):
            if path.name == "adapter_config.json" or path.suffix == ".safetensors":
                stat = path.stat()
                seen.append((path.name, stat.st_size, stat.st_mtime_ns))
        return tuple(seen)
    except OSError:
        return None


class Prints:
    """Fingerprints at the last attempt and at the last look, by adapter."""

    def __init__(self) -> None:
        self._attempted: dict[str, Fingerprint] = {}
        self._last: dict[str, Fingerprint] = {}
        self.changed: frozenset[str] = frozenset()
        """Adapters whose files differ from those at the attempt, and were the same at the last two looks: somebody
        who is still copying gets no load of half a file."""

    async def attempt(self, name: str, folder: str) -> None:
        """Remember what the coming attempt is made with."""
        self._attempted[name] = await asyncio.to_thread(fingerprint, folder)
        self.changed -= {name}

    def forget(self, name: str) -> None:
        """Forget an adapter that is loaded."""
        self._attempted.pop(name, None)
        self._last.pop(name, None)
        self.changed -= {name}

    async def look(self, folders: Mapping[str, str]) -> None:
        """Look at the folders of adapters that failed."""
        folders = {name: folder for name, folder in folders.items() if name in self._attempted}
        if not folders:
            self.changed = frozenset()
            return
        now = await asyncio.to_thread(lambda: {name: fingerprint(folder) for name, folder in folders.items()})
        self.changed = frozenset(
            name
            for name, seen in now.items()
            if name in self._last and seen == self._last[name] and seen != self._attempted.get(name, seen)
        )
        self._last = now

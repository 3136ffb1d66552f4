"""Folders of a volume, copied: only when a pvc:// or file:// source was asked for in another folder.

Links are followed where they stay below a root (as the Hub's own cache has them), and rejected where they lead out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patio.downloads.backends import CHUNK, Reading
from patio.downloads.errors import DownloadError
from patio.downloads.layout import contained, local_folder
from patio.downloads.planner import Listing, RemoteFile
from patio.downloads.validation import MOST_FILES
from patio_protocol.downloads import DownloadReason


class Local:
    """A folder below a root."""

    def __init__(self, path: str, roots: tuple[Path, ...]) -> None:
        self._folder = local_folder(path, roots)
        self._roots = roots

    def listing(self) -> Listing:
        """Walk the folder; hidden ones are skipped, ours among them."""
        files = []
        for folder, folders, names in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(contained(os.path.join(folder, name), self._roots))
                if path.is_file():
                    stat = path.stat()
                    shown = os.path.relpath(path, self._folder)
                    files.append(RemoteFile(shown, stat.st_size, str(stat.st_mtime_ns)))
            if len(files) > MOST_FILES:
                raise DownloadError(DownloadReason.REJECTED, f"{self._folder} has more than {MOST_FILES} files.")
        return Listing(tuple(files))

    @contextmanager
    def read(self, file: RemoteFile, offset: int) -> Iterator[Reading]:
        """Open a file, if it is still the one that was listed."""
        with Path(contained(os.path.join(self._folder, file.name), self._roots)).open("rb") as opened:
            stat = os.fstat(opened.fileno())
            if (stat.st_size, str(stat.st_mtime_ns)) != (file.size, file.tag):
                raise DownloadError(DownloadReason.CHANGED, f"{file.name} changed while it was copied.")
            opened.seek(offset)
            yield Reading(offset, iter(lambda: opened.read(CHUNK), b""), None)

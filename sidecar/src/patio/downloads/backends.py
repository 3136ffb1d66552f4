"""What the worker needs of a source: its listing, and a file from an offset on. `hf`, `s3` and `local` implement it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from patio.downloads.errors import DownloadError
from patio.downloads.planner import Digest, Listing, RemoteFile
from patio_protocol.downloads import DownloadReason

CHUNK = 256 * 1024
"""Read from a disk at once."""
NETWORK_CHUNK = 32 * 1024
"""Read from the network at once: little, so that what a slow source gives is seen."""
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""Without a byte, before a source counts as out of reach."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A file on its way."""

    offset: int
    """Where it begins; 0 if the source cannot begin elsewhere."""
    chunks: Iterator[bytes]
    digest: Digest | None
    """What the whole file must hash to, as far as the source says."""


class Backend(Protocol):
    """A source that is being read. Every error is a `DownloadError`."""

    def listing(self) -> Listing:
        """Return what is there now."""

    def read(self, file: RemoteFile, offset: int) -> AbstractContextManager[Reading]:
        """Open a file of the listing; called by several threads at once."""


def begins_at(content_range: str | None, offset: int, subject: str) -> int:
    """Return where an answer begins, from its Content-Range; raise `DownloadError` for another part than was asked."""
    if content_range is None:
        return 0
    if not content_range.startswith(f"bytes {offset}-"):
        raise DownloadError(DownloadReason.ERROR, f"{subject}: the source sent another range than from byte {offset}.")
    return offset

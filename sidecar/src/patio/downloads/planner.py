"""What to fetch, from what a source lists and what is on disk. Pure: the worker brings both and carries it out.

Every file is whole on disk, begun, or absent; a begun one goes on where its bytes are sure to be on disk. How much
space it all takes is known before the first byte is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from patio.downloads.errors import DownloadError
from patio.downloads.validation import check_listing, is_code, why_skipped
from patio_protocol.downloads import DownloadReason, SkippedFile

SYNC_STEP = 16 * 1024 * 1024
"""A file's bytes are forced to disk every so many, so that after a node's crash all whole steps can be trusted."""
SPACE_LEFT = 64 * 1024 * 1024
"""Bytes of a disk that downloads leave to others."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's content must hash to."""

    algorithm: str
    """`sha256`, `md5`, or `git`: git's blob hash, a SHA-1 with a header."""
    value: str


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its source lists it."""

    name: str
    """Relative to the folder that is fetched, with slashes."""
    size: int
    tag: str = ""
    """Changes with the content: an ETag, a blob's hash."""
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source has."""

    files: tuple[RemoteFile, ...]
    revision: str | None = None
    """The source's own name for this state of it; None: one is made of names, sizes and tags."""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What an earlier attempt at the same revision left."""

    whole: Mapping[str, int] = field(default_factory=dict)
    """Sizes of files that were checked, by name."""
    begun: Mapping[str, int] = field(default_factory=dict)
    """Sizes of files that were not, by name, as far as they can be trusted."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """One file to be fetched, from an offset on."""

    file: RemoteFile
    offset: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What is taken of a listing."""

    files: tuple[RemoteFile, ...]
    skipped: tuple[SkippedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def select(listing: Listing, all_files: bool) -> Selection:
    """Choose what is fetched; raise `DownloadError` for a listing that must not be taken or has nothing to take."""
    check_listing(file.name for file in listing.files)
    if any(file.size < 0 for file in listing.files):
        raise DownloadError(DownloadReason.REJECTED, "The source lists a file with a negative size.")
    if not listing.files:
        raise DownloadError(DownloadReason.NOT_FOUND, "The source has no files at this path.")
    if all_files:
        return Selection(listing.files, ())
    selected = tuple(file for file in listing.files if why_skipped(file.name) is None)
    skipped = tuple(
        SkippedFile(name=file.name, why=reason)
        for file in listing.files
        if (reason := why_skipped(file.name)) is not None
    )
    if not any(file.name.endswith(".safetensors") for file in selected):
        code = sorted(file.name for file in listing.files if is_code(file.name))
        if code:
            message = (
                f"The only weights are {', '.join(code[:3])}. These formats can run code when they are loaded. Publish "
                "the weights as safetensors, or allow them with PATIO_DOWNLOAD_FILES=all in the sidecar."
            )
            raise DownloadError(DownloadReason.REJECTED, message)
    if not selected:
        raise DownloadError(DownloadReason.REJECTED, "The source has no file that an engine reads.")
    return Selection(selected, skipped)


def revision_of(listing: Listing, all_files: bool) -> str:
    """Return the name of the folder for this state of the source. What is taken of it is part of the name."""
    revision = listing.revision
    if revision is None:
        text = "\n".join(sorted(f"{file.name}\t{file.size}\t{file.tag}" for file in listing.files))
        revision = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{revision}-all" if all_files else revision


def plan(selection: Selection, disk: OnDisk) -> tuple[Fetch, ...]:
    """Return what is still to be fetched, the largest first: it takes longest."""
    fetches = [Fetch(file, _offset(file, disk)) for file in selection.files if disk.whole.get(file.name) != file.size]
    return tuple(sorted(fetches, key=lambda fetch: fetch.offset - fetch.file.size))


def space_needed(fetches: tuple[Fetch, ...]) -> int:
    """Return how many bytes the disk must still take in."""
    return sum(fetch.file.size - fetch.offset for fetch in fetches)


def _offset(file: RemoteFile, disk: OnDisk) -> int:
    begun = disk.begun.get(file.name, 0)
    if begun > file.size:
        return 0
    # At least one byte is read again, since the answer that brings it tells how the content is to be checked.
    return max(0, min(begun, file.size - 1))

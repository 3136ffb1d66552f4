"""Where a download's files lie, and that they lie below an allowed root.

    <root>/<key>/<revision>                 without an output_dir; what engines get
    <output_dir>/.patio/<revision>          with one; what engines get for adapters
    <output_dir>/.patio/current             a link to the revision that is shown
    <output_dir>/config.json                links through `current`, so that all files change at once

Beside the revisions: `.lock` (who writes), `.<revision>.source` (what it was fetched from), `.partial-<revision>` (what
is being fetched). In the root, and in `.patio` of an output_dir: `.in-use` (who uses which revision). In the root:
`.room.lock` (who reserves room) and `.reserved` (room that running downloads will take).
Links that lead out of the roots are rejected, not followed.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from patio.downloads.cache_keys import PRIVATE_FOLDER
from patio.downloads.errors import DownloadError
from patio.downloads.locks import offset_of
from patio_protocol.downloads import DownloadReason


@dataclass(frozen=True, slots=True)
class DownloadLayout:
    """The folders of one download."""

    revisions: Path
    """Holds a folder for each revision."""
    shown: Path | None = None
    """The `output_dir` in which the current revision is shown."""

    def folder(self, revision: str) -> Path:
        """Return where a revision lies when it is whole."""
        return self.revisions / revision

    def partial(self, revision: str) -> Path:
        """Return where a revision lies while it is fetched."""
        return self.revisions / f".partial-{revision}"

    @property
    def lock(self) -> Path:
        """The file that a writer locks."""
        return self.revisions / ".lock"


def users_lock(folder: Path, root: Path) -> tuple[Path, int]:
    """Return the file, and its byte, that users of a revision lock, shared; who removes it locks it exclusively."""
    home = folder.parent
    file = (home if home.name == PRIVATE_FOLDER else root) / ".in-use"
    return file, offset_of(f"{home.name}/{folder.name}")


def room_lock(root: Path) -> Path:
    """Return the file that a worker locks while it reserves room under a root."""
    return root / ".room.lock"


def reservations(root: Path) -> Path:
    """Return the folder of what running downloads will take."""
    return root / ".reserved"


def source_note(folder: Path) -> Path:
    """Return the file that says which sources a revision was fetched from, a line each."""
    return folder.with_name(f".{folder.name}.source")


def layout_of(key: str, output_dir: str | None, root: Path, roots: Iterable[Path]) -> DownloadLayout:
    """Return the place of a download; raise `DownloadError` for an `output_dir` that is not below a root.

    Only names are compared. The disk, which may be slow, is not read: a writer calls `contained` as well.
    """
    if output_dir is None:
        return DownloadLayout(root / key)
    shown = Path(_named_below(output_dir, tuple(roots)))
    return DownloadLayout(shown / PRIVATE_FOLDER, shown)


def contained(path: str, roots: Iterable[Path]) -> str:
    """Return a path below (or equal to) a root, also with all links resolved; raise `DownloadError` otherwise."""
    roots = tuple(roots)
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        raise _outside(path, roots)
    # The name as it was given: engines know the folder by it. Its links stay inside.
    return _named_below(path, roots)


def _named_below(path: str, roots: tuple[Path, ...]) -> str:
    plain = path.startswith("/") and not path.startswith("//") and ".." not in path.split("/")
    if not plain or not any(PurePosixPath(path).is_relative_to(root) for root in roots):
        raise _outside(path, roots)
    return posixpath.normpath(path)


def _outside(path: str, roots: tuple[Path, ...]) -> DownloadError:
    allowed = ", ".join(str(root) for root in roots)
    message = f"{path!r} is outside the allowed download roots ({allowed}); add roots with PATIO_DOWNLOAD_ROOTS."
    return DownloadError(DownloadReason.INVALID, message)


def local_folder(absolute_or_not: str, roots: Iterable[Path]) -> str:
    """Return the folder of a pvc:// or file:// source, which has to exist below a root; raise `DownloadError`.

    A relative one is searched for in every root. Links inside volumes are common, and followed where they stay below a
    root.
    """
    roots = tuple(roots)
    if absolute_or_not.startswith("/"):
        candidates = [absolute_or_not]
    else:
        candidates = [str(root / absolute_or_not) for root in roots]
    for candidate in candidates:
        folder = contained(candidate, roots)
        if os.path.isdir(folder):
            if not os.access(folder, os.R_OK | os.X_OK):
                raise DownloadError(DownloadReason.UNAUTHORIZED, f"The sidecar cannot read {folder}.")
            return folder
    message = f"The sidecar has no folder {' or '.join(candidates)}. Mount its volume there."
    raise DownloadError(DownloadReason.NOT_FOUND, message)

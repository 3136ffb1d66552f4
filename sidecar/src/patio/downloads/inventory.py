"""Which sources have their files under the root, as a note beside each revision says: `.<revision>.source`.

The worker writes the note when a revision is complete, the code that removes the revision removes its note, and
`Downloads` reads all notes. A note is a hint for the planner that chooses a pod, also on a disk that pods share;
nothing is loaded because of it. Calls block on the disk: they are made in a thread, or in the worker.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from patio.atomic_file import read_small
from patio.downloads.cache_keys import is_revision
from patio.downloads.layout import source_note
from patio_protocol.sources import parse_source

MOST_BYTES = 64 * 1024
"""Of a note that are read; a revision has few names."""
MOST_SOURCES = 10_000
"""Reported for one root."""


def sources_under(root: Path) -> frozenset[str]:
    """Return the sources that were fetched to the root and are still there."""
    sources: set[str] = set()
    with contextlib.suppress(OSError):
        for home in root.iterdir():
            with contextlib.suppress(OSError):
                for folder in home.iterdir():
                    if is_revision(folder, root) and folder.is_dir():
                        sources |= noted(folder)
                    if len(sources) > MOST_SOURCES:
                        return frozenset(sorted(sources)[:MOST_SOURCES])
    return frozenset(sources)


def noted(folder: Path) -> frozenset[str]:
    """Return the sources that one revision was fetched from. What is not one is skipped: others write there too."""
    try:
        lines = read_small(source_note(folder), MOST_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(line for line in lines if _is_source(line))


def _is_source(line: str) -> bool:
    try:
        return str(parse_source(line)) == line
    except ValueError:
        return False

"""The names of the folders that hold downloads: one for each source, in it one for each revision. Pure.

`layout` puts them below a root; locks and clean-up recognise by them what Patio fetched.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath

from patio_protocol.sources import Source

PRIVATE_FOLDER = ".patio"
"""Folder in an `output_dir` that is ours; no file of a source may be in it."""
_KEY = re.compile(r"(?:hf|s3|obs|pvc|file)-[A-Za-z0-9._-]+-[0-9a-f]{12}")
_REVISION = re.compile(r"[0-9a-f]{16,64}(?:-all)?")


def is_revision(path: PurePath, root: PurePath) -> bool:
    """Whether a path is that of a revision that Patio fetched. Nothing else is ever locked or removed."""
    home = path.parent
    is_private = home.name == PRIVATE_FOLDER or (home.parent == root and _KEY.fullmatch(home.name) is not None)
    return is_private and _REVISION.fullmatch(path.name) is not None


def key_of(source: Source, endpoint: str) -> str:
    """Return the name of the folder for all revisions of a source: readable, and never another source's."""
    identity = "\n".join((source.kind, endpoint, source.name, source.path))
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{source.name}-{source.path}").strip("-.")[:60].strip("-.")
    return f"{source.kind}-{readable or 'root'}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

"""Which names of a listing are taken. Pure.

A listing comes from outside: it may hold `../../etc/passwd`, absolute names, a file that is also a folder. Such a
listing is rejected whole, before anything is written: its author is an attacker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from patio.downloads.cache_keys import PRIVATE_FOLDER
from patio.downloads.errors import DownloadError
from patio_protocol.downloads import DownloadReason

MOST_FILES = 10_000

_DATA = frozenset(
    {".safetensors", ".json", ".jsonl", ".txt", ".md", ".yaml", ".yml", ".jinja", ".jinja2"}
    | {".model", ".tiktoken", ".vocab", ".spm", ".bpe"}
)
_VERSIONED = re.compile(r".+\.model\.v[0-9]+[a-z0-9]*", re.IGNORECASE)
"""Tokenizers of Mistral's format: `tokenizer.model.v3`, `tokenizer.mm.model.v1`, `tokenizer.model.v7m1`."""
_DOCUMENTS = frozenset({"license", "licence", "notice", "readme"})
_CODE = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".keras"}
    | {".msgpack", ".ot", ".pdparams", ".params", ".mar", ".t7"}
)
"""Formats that can run code when they are read, or are weights of frameworks that neither engine has."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\\]")


def safe_name(name: str) -> bool:
    """Whether a name of a listing stays below the folder that it is put in, on every file system."""
    if not name or len(name.encode(errors="replace")) > 1024 or _UNPRINTABLE.search(name):
        return False
    parts = name.split("/")
    if parts[0] == PRIVATE_FOLDER:
        return False
    return all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)


def check_listing(names: Iterable[str]) -> None:
    """Raise a `DownloadError` for a listing that must not be taken."""
    names_seen: set[str] = set()
    folders: set[str] = set()
    for name in names:
        if not safe_name(name):
            message = (
                f"The source lists {name[:200]!r}, which could lead out of its folder. The sidecar fetches nothing."
            )
            raise DownloadError(DownloadReason.REJECTED, message)
        if name in names_seen:
            raise DownloadError(DownloadReason.REJECTED, f"The source lists {name!r} twice.")
        names_seen.add(name)
        if len(names_seen) > MOST_FILES:
            raise DownloadError(DownloadReason.REJECTED, f"The source has more than {MOST_FILES} files.")
        folders.update(str(parent) for parent in PurePosixPath(name).parents)
    both = sorted(names_seen & folders)
    if both:
        raise DownloadError(DownloadReason.REJECTED, f"The source lists {both[0]!r} as a file and as a folder.")


def is_code(name: str) -> bool:
    """Whether a file holds weights in a format that is not data only."""
    return PurePosixPath(name).suffix.lower() in _CODE


def why_skipped(name: str) -> str | None:
    """Return why a file is not fetched when only safetensors are allowed; None: it is fetched."""
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix in _CODE:
        return "weights in a format other than safetensors, which can run code when they are loaded"
    if suffix == ".py":
        return "code"
    if suffix in _DATA or _VERSIONED.fullmatch(path.name) or path.stem.lower() in _DOCUMENTS:
        return None
    return "not a file that an engine reads"

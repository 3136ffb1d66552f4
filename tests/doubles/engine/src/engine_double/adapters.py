"""What is wrong with an adapter on disk, judged from its real files.

`inspect` reads a directory the way the engines' loaders do, as far as the recorded errors need it: the path, the
configuration, the header of the weights. `vllm` and `sglang` turn the finding into their own words and statuses.
Nothing of the weights is used but their digest, so that the same weights always give the same answers.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


class Finding(Enum):
    """What `inspect` saw."""

    GOOD = auto()
    NO_DIRECTORY = auto()
    NOT_A_DIRECTORY = auto()
    NO_CONFIG = auto()
    BROKEN_CONFIG = auto()
    NO_WEIGHTS = auto()
    BROKEN_WEIGHTS = auto()


@dataclass(frozen=True)
class Inspection:
    """An adapter's files, judged without knowing the engine's limits."""

    finding: Finding
    detail: str = ""
    """The loader's own words, e.g. those of the JSON parser."""
    rank: int = 0
    dora: bool = False
    target_modules: tuple[str, ...] = ()
    digest: str = ""


def inspect(path: str) -> Inspection:
    """Judge the adapter at `path`. An empty path is the current directory, as for the engines."""
    directory = Path(path)
    if not directory.exists():
        return Inspection(Finding.NO_DIRECTORY)
    if not directory.is_dir():
        return Inspection(Finding.NOT_A_DIRECTORY)
    try:
        text = (directory / CONFIG).read_text()
    except OSError:
        return Inspection(Finding.NO_CONFIG)
    try:
        config: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        return Inspection(Finding.BROKEN_CONFIG, str(error))
    facts: dict[str, Any] = {
        "rank": int(config.get("r", 8)),
        "dora": bool(config.get("use_dora")),
        "target_modules": tuple(config.get("target_modules") or ()),
    }
    try:
        weights = (directory / WEIGHTS).read_bytes()
    except OSError:
        return Inspection(Finding.NO_WEIGHTS, **facts)
    detail = _weights_error(weights)
    if detail is not None:
        return Inspection(Finding.BROKEN_WEIGHTS, detail, **facts)
    return Inspection(Finding.GOOD, digest=hashlib.sha256(weights).hexdigest(), **facts)


def _weights_error(weights: bytes) -> str | None:
    """Check a safetensors file as its library does, and complain in its words."""
    if len(weights) < 8:
        return "Error while deserializing header: header too small"
    (length,) = struct.unpack("<Q", weights[:8])
    if length > len(weights) - 8:
        return "Error while deserializing header: invalid header length"
    try:
        header = json.loads(weights[8 : 8 + length])
    except ValueError:
        return "Error while deserializing header: invalid JSON in header"
    end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    if end != len(weights) - 8 - length:
        return "Error while deserializing header: incomplete metadata, file not fully covered"
    return None

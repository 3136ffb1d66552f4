"""Reads JSON that others wrote into annotations: `read_json`.

A user who may write an object may write anything into its annotations: text that is not JSON, that is nested deeper
than a parser can follow, or that has characters which no encoding has. All of these count as nothing, so that a reader
needs one rule and no `except`. Whole objects of the API server are read by `kube.bodies`.
"""

from __future__ import annotations

import json
from typing import Any

LONGEST = 262_144
"""Characters: all annotations of an object together may have so many bytes."""
DEEPEST = 32
"""Levels of lists and objects. A pod's template, which conversion keeps, has some fifteen."""


def read_json(text: object, limit: int = LONGEST) -> object | None:
    """Return what a text says; None for one that is missing, too long, nested too deeply, or no JSON. Never raises.

    Args:
        text: the annotation, if there is one.
        limit: characters that it may have.

    """
    if not isinstance(text, str) or len(text) > limit:
        return None
    try:
        value: object = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if size_of(value) is not None else None


def read_object(text: object, limit: int = LONGEST) -> dict[str, Any]:
    """Return the JSON object that a text says, empty for everything else."""
    value = read_json(text, limit)
    return value if isinstance(value, dict) else {}


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def size_of(value: object, deepest: int = DEEPEST) -> int | None:
    """Return how many values there are in one; None when it is too deep, or some of its text cannot be encoded."""
    level: list[object] = [value]
    size = 0
    for _ in range(deepest + 1):
        size += len(level)
        below: list[object] = []
        for node in level:
            if isinstance(node, dict):
                if not all(map(_can_be_encoded, node)):
                    return None
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            elif isinstance(node, str) and not _can_be_encoded(node):
                return None
        if not below:
            return size
        level = below
    return None


def _can_be_encoded(text: str) -> bool:
    """Tell whether a text has no half of a surrogate pair: JSON can write one, and UTF-8 cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)

"""Reads an engine's `/v1/models`: its own names, and its adapters. Pure.

vLLM 0.32 and SGLang 0.5 list an adapter as a model with a `parent`. What is no name is left out; a list that is none
raises `ValueError`. Bounded in bytes, entries and length of names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

MOST_BYTES = 4 * 1024 * 1024
MOST_ENTRIES = 10_000
MOST_NAME = 256


@dataclass(frozen=True)
class Listing:
    """What an engine serves now."""

    bases: tuple[str, ...]
    adapters: frozenset[str]


def read_listing(data: bytes) -> Listing:
    """Return what an engine says that it serves.

    Raises:
        ValueError: it is too long, no JSON, or no list of models.

    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"the list of models is longer than {MOST_BYTES} bytes")
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("the list of models is nested too deeply") from None
    entries = document.get("data") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MOST_ENTRIES:
        raise ValueError(f"the engine answered with something else than a list of at most {MOST_ENTRIES} models")
    bases: dict[str, None] = {}
    adapters = set()
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        name, parent = entry.get("id"), entry.get("parent")
        if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME:
            continue
        if isinstance(parent, str) and parent:
            adapters.add(name)
        else:
            bases[name] = None
    return Listing(tuple(bases), frozenset(adapters - bases.keys()))

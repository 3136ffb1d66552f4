"""JSON that somebody else wrote, such as the text of an annotation: read within limits, or not at all. Pure.

Everything that decodes annotations uses this. It never raises: one object that cannot be read must not end the watch,
the pass or the admission that meets it.
"""

from __future__ import annotations

import json

DEEPEST = 32
"""Levels of lists and objects. What Patio writes into annotations has three."""


def read_json(text: object, limit: int = 262_144) -> object | None:
    """Return what a text says; None for what is no string, too long, nested too deeply, or no JSON."""
    if not isinstance(text, str) or len(text) > limit:
        return None
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if _shallow(value) else None


def _shallow(value: object) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        if not level:
            return True
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return not level

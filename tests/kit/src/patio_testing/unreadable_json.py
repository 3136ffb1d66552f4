"""Texts that no reader of JSON takes: too deep, too long, or not JSON."""

from __future__ import annotations


def nested(levels: int) -> str:
    """Return lists in lists."""
    return "[" * levels + "]" * levels


UNREADABLE = (
    *("[" * 900, "[" * 100_000, nested(900), nested(100_000), '{"a":' * 5000),
    *("NaN", "9" * 5000, '"\\ud800"', "{", ""),
)

"""The page of all reasons, codes and events, from `reasons.yaml`.

What a reason means and what to do is written there by people. Tests compare the names with those in the code, so
none is missing and none is left over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.reference.markdown import page, table

SOURCE = Path(__file__).with_name("reasons.yaml")

INTRODUCTION = """\
A reason is one word in CamelCase that does not change its meaning. You find reasons in `kubectl describe`, in the
`STATUS` column of `kubectl get`, in events, in the answers of the sidecar and in labels of metrics. Search this
page for the word. The message beside the reason names the pod and has the words of the engine, the source or the
API server."""


def sections() -> list[Mapping[str, Any]]:
    """Return the sections of the page: `title`, `text`, `columns` and `rows`."""
    found: list[Mapping[str, Any]] = yaml.safe_load(SOURCE.read_text())
    return found


def write() -> str:
    """Return the page."""
    parts = []
    for section in sections():
        parts.append(f"## {section['title']}")
        if "text" in section:
            parts.append(section["text"].strip())
        rows = [(_names(row[0]), *map(str, row[1:])) for row in section["rows"]]
        parts.append(table(section["columns"], rows))
    return page("Reasons and events", INTRODUCTION, *parts)


def _names(text: str) -> str:
    """Return names as code; what has spaces is prose."""
    return ", ".join(name.strip() if " " in name.strip() else f"`{name.strip()}`" for name in str(text).split(","))

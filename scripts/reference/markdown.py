"""Tables and texts for pages in Markdown: everything that needs escaping is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Row = Sequence[str]


def page(title: str, introduction: str, *parts: str) -> str:
    """Return a page: the remark that it is generated, the title and the parts."""
    head = f"<!-- Written by `make reference`. Do not edit. -->\n\n# {title}\n\n{introduction}"
    return "\n\n".join([head, *(part for part in parts if part)]) + "\n"


def table(head: Row, rows: Iterable[Row]) -> str:
    """Return a table. Cells are Markdown already; only what would end a cell is escaped."""
    lines = [_line(head), "|" + "---|" * len(head), *(_line(row) for row in rows)]
    return "\n".join(lines)


def code(text: str) -> str:
    """Return a text as code, or nothing for no text."""
    return f"`{text}`" if text else ""


def plain(text: str) -> str:
    """Return prose of the program as Markdown: one line, and names that look like code are code."""
    text = " ".join(text.split()).replace("<", "&lt;")
    return re.sub(
        r"(?<![`\w])((?:[\w.-]*[*]|\w+_\w+\{[\w,]*\}|[A-Z]+(?:_[A-Z0-9]+)+|--[a-z][a-z-]+))(?![`\w])", r"`\1`", text
    )


def _line(cells: Row) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

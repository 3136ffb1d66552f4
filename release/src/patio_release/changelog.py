"""The section of a version in CHANGELOG.md, as notes of a release and as Artifact Hub wants it. Pure.

`towncrier` writes the sections from the fragments; this module only reads them.
"""

import re

from patio_release.version import Version

_KINDS = {
    "Breaking changes": "changed",
    "Added": "added",
    "Changed": "changed",
    "Fixed": "fixed",
    "Security": "security",
    "Documentation": "changed",
}
"""Titles in the changelog, and the kinds of change that Artifact Hub knows."""


def section(changelog: str, version: Version) -> str | None:
    """Return the text below a version's title; None if there is no such title."""
    title = re.compile(rf"^## {re.escape(version.text)} \(.*\)$", re.MULTILINE)
    found = title.search(changelog)
    if found is None:
        return None
    return re.split(r"^## ", changelog[found.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()


def changes(text: str) -> list[dict[str, str]]:
    """Return the entries of a section as Artifact Hub's annotation lists them: one line each, links as their text."""
    found: list[dict[str, str]] = []
    kind = "changed"
    for line in text.splitlines():
        if line.startswith("### "):
            kind = _KINDS.get(line.removeprefix("### ").strip(), "changed")
        elif line.startswith("- "):
            found.append({"kind": kind, "description": line.removeprefix("- ").strip()})
        elif line.startswith("  ") and line.strip() and found:
            found[-1]["description"] += " " + line.strip()
    return [
        change | {"description": re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", change["description"])} for change in found
    ]

"""Reads the tutorial: its steps, with the commands of each and what they should print.

Pure. `test_tutorial` runs the steps on a cluster; a unit test checks that every command of the tutorial and of the
README is run by some test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
TUTORIAL = ROOT / "docs" / "tutorial.md"

DONE_ELSEWHERE = {
    "make demo ENGINE=double": "tests/e2e/test_tutorial.py calls what the demo calls, demo.start_engine",
    "make down": "tests/cluster/tests/test_residue.py",
}
"""Commands of the tutorial that cannot be run inside a test, and what runs the same."""


@dataclass(frozen=True)
class Step:
    """A block of commands, and the block of output after it, if there is one."""

    title: str
    commands: str
    shown: str = ""
    printed: str = ""


def steps(document: Path = TUTORIAL) -> list[Step]:
    """Return the steps of a document: every `sh` block, with the `text` block that follows it."""
    found: list[Step] = []
    title = ""
    for match in re.finditer(r"^## ([^\n]*)$|^```(sh|text)\n(.*?)\n```$", document.read_text(), re.M | re.S):
        heading, kind, text = match.groups()
        if kind is None:
            title = heading
        elif kind == "sh":
            found.append(Step(title, text))
        else:
            found[-1] = replace(found[-1], shown=text)
    return found


def differences(step: Step) -> list[str]:
    """Return the lines that should have been printed otherwise. Times, and what `...` stands for, may be anything."""
    if not step.shown:
        return []
    shown, printed = step.shown.splitlines(), step.printed.splitlines()
    if len(shown) != len(printed):
        return [f"{len(shown)} lines are shown, {len(printed)} were printed: {step.printed!r}"]
    pairs = zip(shown, printed, strict=True)
    return [
        f"{should!r}, not {actual!r}" for should, actual in pairs if not re.fullmatch(_pattern(should), actual.strip())
    ]


def _pattern(line: str) -> str:
    patterns = [re.escape(pattern) for pattern in line.split()]
    return r"\s+".join(r".*" if pattern == r"\.\.\." else re.sub(r"^\d+s$", r"\\S+", pattern) for pattern in patterns)

"""The tests themselves: their names are short enough to be read at a glance."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("protocol/tests", "sidecar/tests", "operator/tests", "tests")
LONGEST_NAME = 60


def test_names_of_tests_have_at_most_sixty_characters() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("test_*.py")]
    names = [name for path in files for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", path.read_text(), re.M)]
    assert len(names) > 1000
    assert [name for name in names if len(name) > LONGEST_NAME] == []

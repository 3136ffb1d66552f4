"""docs/project/reliability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("protocol/tests", "api/tests", "kube/tests", "sidecar/tests", "operator/tests", "tests")


def test_every_test_that_the_table_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/project/reliability.md").read_text()))
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("test_*.py")]
    existing = {path.stem for path in files}
    existing |= {name for path in files for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.M)}
    assert len(named) > 80
    assert sorted(named - existing) == []


def test_every_row_names_a_test() -> None:
    rows = [line for line in (ROOT / "docs/project/reliability.md").read_text().splitlines() if line.startswith("| ")]
    faults = [row for row in rows if not row.startswith("| fault ")]
    assert not [row for row in faults if not re.search(r"`test_\w+`", row.split("|")[-2])]

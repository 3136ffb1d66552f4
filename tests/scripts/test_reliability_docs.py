"""The pages that name a test for each fault name tests that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    *("protocol/tests", "api/tests", "kube/tests", "sidecar/tests", "operator/tests", "gateway/tests"),
    *("inference-server/tests", "tests"),
)
PAGES = {"docs/project/reliability.md": 80, "docs/concepts/gateway-faults.md": 40}
"""Each with the number of tests that it names at least."""
NAMED = r"`(test_\w+)`"


def rows(page: str) -> Iterator[str]:
    """Return the rows of a page's tables, without their heads."""
    lines = [*(ROOT / page).read_text().splitlines(), ""]
    for line, following in pairwise(lines):
        if line.startswith("| ") and not following.startswith("|---"):
            yield line


@pytest.mark.parametrize(("page", "fewest"), PAGES.items())
def test_every_test_that_a_page_names_exists(page: str, fewest: int) -> None:
    named = set(re.findall(NAMED, (ROOT / page).read_text()))
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("test_*.py")]
    existing = {path.stem for path in files}
    existing |= {name for path in files for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.M)}
    assert len(named) > fewest
    assert sorted(named - existing) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_row_names_a_test(page: str) -> None:
    found = list(rows(page))
    assert len(found) > 20
    assert [row for row in found if not re.search(NAMED, row.split("|")[-2])] == []

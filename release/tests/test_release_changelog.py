"""The section of a version in the changelog."""

from __future__ import annotations

from pathlib import Path

from patio_release.changelog import changes, section
from patio_release.version import Version

ROOT = Path(__file__).resolve().parents[2]
TEXT = """\
# Changelog

<!-- towncrier release notes start -->

## 1.1.0 (2026-02-01)

### Breaking changes

- A setting has [another name](docs/x.md).

### Security

- A fault is gone. It was there
  since 1.0.0. (#7)

## 1.0.0 (2026-01-01)

### Added

- Everything.
"""


def test_section_ends_where_the_next_begins() -> None:
    text = section(TEXT, Version("1.1.0"))
    assert text is not None
    assert text.startswith("### Breaking changes")
    assert text.endswith("(#7)")


def test_last_section_goes_to_the_end() -> None:
    assert section(TEXT, Version("1.0.0")) == "### Added\n\n- Everything."


def test_version_without_a_section_has_none() -> None:
    assert section(TEXT, Version("1.1.0-rc.1")) is None
    assert section(TEXT, Version("1.10.0")) is None


def test_changes_have_the_kinds_of_artifact_hub() -> None:
    assert changes(section(TEXT, Version("1.1.0")) or "") == [
        {"kind": "changed", "description": "A setting has another name."},
        {"kind": "security", "description": "A fault is gone. It was there since 1.0.0. (#7)"},
    ]


def test_changelog_of_the_tree_has_the_mark_that_towncrier_needs() -> None:
    assert "<!-- towncrier release notes start -->" in (ROOT / "CHANGELOG.md").read_text()

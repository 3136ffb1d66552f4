"""What a release does to the tree and to its folder; the steps themselves are rehearsed in tests/release."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from patio_release.errors import ReleaseError
from patio_release.publisher import empty, write_changelog
from patio_release.version import Version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a tree with a changelog and one fragment."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n<!-- towncrier release notes start -->\n")
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d/README.md").write_text("How.\n")
    (tmp_path / "changelog.d/+one.added.md").write_text("One thing.\n")
    return tmp_path


def test_changelog_that_is_written_again_stays_the_same(tree: Path) -> None:
    write_changelog(tree, Version("1.0.0"), "2026-01-02")
    written = (tree / "CHANGELOG.md").read_text()
    assert "## 1.0.0 (2026-01-02)\n\n### Added\n\n- One thing." in written
    assert not (tree / "changelog.d/+one.added.md").exists()
    write_changelog(tree, Version("1.0.0"), "2026-01-03")
    assert (tree / "CHANGELOG.md").read_text() == written


def test_fragment_of_a_version_with_a_section_is_named(tree: Path) -> None:
    write_changelog(tree, Version("1.0.0"), "2026-01-02")
    (tree / "changelog.d/+late.fixed.md").write_text("A late one.\n")
    with pytest.raises(ReleaseError, match=r"section 1\.0\.0 already: move the text of \+late\.fixed\.md into it"):
        write_changelog(tree, Version("1.0.0"), "2026-01-03")


def test_candidate_leaves_the_fragments(tree: Path) -> None:
    before = (tree / "CHANGELOG.md").read_text()
    write_changelog(tree, Version("1.0.0-rc.1"), "2026-01-02")
    assert (tree / "CHANGELOG.md").read_text() == before
    assert (tree / "changelog.d/+one.added.md").exists()


def test_folder_of_a_release_is_emptied(tmp_path: Path) -> None:
    output = tmp_path / "dist"
    empty(output, tmp_path)
    (output / "old").touch()
    empty(output, tmp_path)
    assert not (output / "old").exists()
    (output / ".layouts").rmdir()
    (output / "SHA256SUMS").touch()
    empty(output, tmp_path)
    assert not (output / "SHA256SUMS").exists()


def test_folder_with_something_else_in_it_is_never_emptied(tmp_path: Path) -> None:
    photo = tmp_path / "home/photo"
    photo.parent.mkdir()
    photo.touch()
    for output in (photo.parent, photo):
        with pytest.raises(ReleaseError, match="not of a release"):
            empty(output, tmp_path / "repository")
    assert photo.exists()


@pytest.mark.parametrize("output", ["", ".."])
def test_folder_with_the_repository_in_it_is_never_emptied(output: str, tmp_path: Path) -> None:
    root = tmp_path / "a/repository"
    root.mkdir(parents=True)
    with pytest.raises(ReleaseError, match="repository is not in"):
        empty((root / output).resolve(), root)
    assert root.exists()

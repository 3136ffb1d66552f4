"""Files that Envoy watches are replaced whole, and only if they changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from patio_gateway.envoy.files import make_folder, remove_others, write_changed


@dataclass(frozen=True)
class Text:
    name: str
    text: str


def test_only_changed_files_are_written(tmp_path: Path) -> None:
    assert write_changed(tmp_path, [Text("a", "1"), Text("b", "1")]) == ["a", "b"]
    before = (tmp_path / "a").stat().st_ino
    assert write_changed(tmp_path, [Text("a", "1"), Text("b", "2")]) == ["b"]
    assert (tmp_path / "a").stat().st_ino == before
    assert (tmp_path / "b").read_text() == "2"


def test_file_is_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_folder(tmp_path / "folder")
        write_changed(tmp_path / "folder", [Text("keys", "secret")])
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "folder" / "keys").stat().st_mode & 0o777 == 0o600


def test_file_is_replaced_by_a_rename(tmp_path: Path) -> None:
    write_changed(tmp_path, [Text("a", "old")])
    with (tmp_path / "a").open() as reader:
        write_changed(tmp_path, [Text("a", "new")])
        # Who has the old one open reads the old one.
        assert reader.read() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_rest_of_a_killed_writer_and_a_link_do_no_harm(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / ".a.new").symlink_to(target)
    write_changed(tmp_path, [Text("a", "new")])
    assert (target.read_text(), (tmp_path / "a").read_text()) == ("mine", "new")


def test_files_that_nothing_names_are_removed(tmp_path: Path) -> None:
    write_changed(tmp_path, [Text("program-1.lua", ""), Text("program-2.lua", ""), Text("other", "")])
    remove_others(tmp_path, ["program-2.lua"], ["program-*.lua"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "program-2.lua"]

"""How much of the disk the folder of downloads takes, and what cannot be said of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from patio.downloads import inventory
from patio.downloads.inventory import disk_usage


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def test_usage_counts_all_files_and_those_of_held_folders(tmp_path: Path) -> None:
    write(tmp_path / "a/1/model.safetensors", 1000)
    write(tmp_path / "a/1/nested/more.json", 30)
    write(tmp_path / "a/2/model.safetensors", 200)
    write(tmp_path / "b/1/model.safetensors", 7)
    # A link counts as itself: its target may be counted already, or lie elsewhere.
    (tmp_path / "b/1/link").symlink_to("model.safetensors")
    usage = disk_usage(tmp_path, {tmp_path / "a/1", tmp_path / "elsewhere"}, 5000)
    assert usage is not None
    assert (usage.used, usage.held, usage.limit) == (1237 + len("model.safetensors"), 1030, 5000)
    assert usage.free > 0


def test_limit_is_the_size_of_the_file_system_if_none_is_set(tmp_path: Path) -> None:
    usage = disk_usage(tmp_path, frozenset(), None)
    assert usage is not None
    assert usage.limit == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize


def test_nothing_is_said_of_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_usage(tmp_path / "missing", frozenset(), None) is None
    write(tmp_path / "file", 1)
    assert disk_usage(tmp_path / "file" / "below", frozenset(), None) is None

    def deny(path: object) -> object:
        raise PermissionError

    monkeypatch.setattr(os, "scandir", deny)
    assert disk_usage(tmp_path, frozenset(), None) is None


def test_root_with_too_many_files_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "MOST_FILES", 3)
    for number in range(3):
        write(tmp_path / str(number), 1)
    assert disk_usage(tmp_path, frozenset(), None) is not None
    write(tmp_path / "another", 1)
    assert disk_usage(tmp_path, frozenset(), None) is None

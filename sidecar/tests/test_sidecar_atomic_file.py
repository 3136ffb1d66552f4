"""The one way to replace a small file."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path

import pytest

import patio
from patio.atomic_file import replace_file


def test_file_is_replaced_whole_and_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def recording_fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    for content in (b"one", b"two"):
        replace_file(tmp_path / "state", content)
        assert (tmp_path / "state").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert len(synced) == 4
    assert synced[1] == synced[3] == str(tmp_path), "the folder too, or the name may be lost"


@pytest.mark.parametrize("failing_call", ["fsync", "replace"])
def test_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: str
) -> None:
    replace_file(tmp_path / "state", b"old")

    def raise_no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raise_no_space) if failing_call == "fsync" else patch.setattr(
            Path, "replace", raise_no_space
        )
        with pytest.raises(OSError, match="No space"):
            replace_file(tmp_path / "state", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"state": b"old"}


def test_nothing_else_in_the_package_replaces_files() -> None:
    package = Path(patio.__file__).parent
    files = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("write_bytes", "write_text", "fsync"):
                files.add(str(file.relative_to(package)))
    # The transfer writes what it fetches; the document is written by a command for developers.
    assert files == {"atomic_file.py", "downloads/transfer.py", "document.py"}

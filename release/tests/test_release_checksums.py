"""The checksums of a release."""

from __future__ import annotations

import subprocess
from pathlib import Path

from patio_release.checksums import FILE, checksums


def test_sha256sum_accepts_the_checksums(tmp_path: Path) -> None:
    files = {"b.txt": b"b", "a.txt": b"a"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / FILE).write_text(checksums(files))
    assert (
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", FILE], cwd=tmp_path, check=False).returncode == 0
    )
    (tmp_path / "a.txt").write_bytes(b"x")
    assert subprocess.run(["sha256sum", "--check", "--status", FILE], cwd=tmp_path, check=False).returncode == 1

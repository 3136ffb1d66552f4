"""Programs of Debian packages: from the path, or unpacked once, and never installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from e2e_cluster.errors import MachineError
from e2e_cluster.packages import Package
from e2e_cluster.unpacked import ensure_unpacked

TOOL = Package("tools", "patio-test-tool")
APT = """#!/bin/sh
echo "$@" >> {log}
[ "$1" = download ] && touch tools_1_all.deb
exit 0
"""
DPKG = """#!/bin/sh
[ "$1" = --extract ] || exit 1
mkdir -p "$3/usr/bin" && echo '#!/bin/sh' > "$3/usr/bin/{program}" && chmod +x "$3/usr/bin/{program}"
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the path, with an apt-get and a dpkg-deb of its own."""
    folder = tmp_path / "bin"
    script(folder / "apt-get", APT.format(log=tmp_path / "apt.txt"))
    script(folder / "dpkg-deb", DPKG.format(program=TOOL.provides))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_program_on_the_path_is_taken(machine: Path, tmp_path: Path) -> None:
    script(machine / TOOL.provides, "#!/bin/sh\n")
    assert ensure_unpacked(TOOL, cache=tmp_path / "cache") == machine / TOOL.provides
    assert not (tmp_path / "apt.txt").exists()


def test_package_is_unpacked_once_and_not_installed(machine: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    program = ensure_unpacked(TOOL, cache=cache)
    assert program == ensure_unpacked(TOOL, cache=cache)
    assert os.access(program, os.X_OK)
    assert (tmp_path / "apt.txt").read_text().splitlines() == ["download -q tools"]
    assert {path.name for path in (cache / "debian").iterdir()} == {".lock", "tools"}


def test_package_without_the_program_is_an_error(machine: Path, tmp_path: Path) -> None:
    script(machine / "dpkg-deb", DPKG.format(program="another"))
    with pytest.raises(MachineError, match="has no usr/bin/patio-test-tool"):
        ensure_unpacked(TOOL, cache=tmp_path / "cache")


def test_failed_download_is_an_error_with_its_message(machine: Path, tmp_path: Path) -> None:
    script(machine / "apt-get", "#!/bin/sh\necho no such package >&2\nexit 100\n")
    with pytest.raises(MachineError, match="no such package"):
        ensure_unpacked(TOOL, cache=tmp_path / "cache")


def test_other_systems_get_the_list_of_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="Debian has it in tools"):
        ensure_unpacked(TOOL, cache=tmp_path / "cache")

"""Where Envoy's program is found."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NoReturn

import pytest

from patio_gateway.envoy.program import EnvoyMissingError, find_envoy


def test_program_that_is_named_is_taken(tmp_path: Path) -> None:
    program = tmp_path / "my-envoy"
    program.write_text("")
    program.chmod(0o755)
    assert find_envoy(str(program)) == str(program)


def test_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(EnvoyMissingError, match="--envoy"):
            find_envoy(str(path))


def test_program_of_the_package_is_found() -> None:
    # The binary itself, not the package's script of Python.
    assert Path(find_envoy(None)).stat().st_size > 10_000_000


def without(name: str) -> NoReturn:
    raise PackageNotFoundError(name)


def test_program_in_path_is_found_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "envoy"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setattr("patio_gateway.envoy.program.distribution", without)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_envoy(None) == str(program)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvoyMissingError, match="not installed"):
        find_envoy(None)

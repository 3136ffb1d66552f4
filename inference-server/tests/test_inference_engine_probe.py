"""What an interpreter has of an engine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from inference_server.engine_probe import Installed, parse_answer, probe, version_numbers


def test_package_is_found_without_an_import(tmp_path: Path) -> None:
    """The package ends the interpreter when it is imported."""
    (tmp_path / "some_engine").mkdir()
    (tmp_path / "some_engine/__init__.py").write_text("import os; os._exit(9)")
    metadata = tmp_path / "some_engine-1.2.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Name: some_engine\nVersion: 1.2\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert probe(sys.executable, "some_engine", environment) == Installed(True, "1.2")
    assert probe(sys.executable, "some_engine_that_is_not_there", environment) == Installed(False)


@pytest.mark.parametrize("program", ["/bin/true", "/bin/false", "/nonexistent"])
def test_program_that_is_no_python_gives_no_answer(program: str) -> None:
    assert probe(program, "vllm", os.environ) == Installed(None)


def test_answer_may_stand_among_other_words() -> None:
    assert parse_answer("warning\ninference-server-probe 1 0.32.0+cpu\n") == Installed(True, "0.32.0+cpu")
    assert parse_answer("inference-server-probe 0 ") == Installed(False)
    assert parse_answer("inference-server-probe maybe") == Installed(None)


@pytest.mark.parametrize(("version", "numbers"), [("0.32.0+cpu", (0, 32, 0)), ("0.13rc1", (0, 13)), ("", None)])
def test_numbers_of_a_version(version: str, numbers: tuple[int, ...] | None) -> None:
    assert version_numbers(version) == numbers

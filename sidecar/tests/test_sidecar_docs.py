"""docs/sidecar.md against the program: its tables of flags, variables, metrics and statuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from patio.api.routes.adapters import FAULT_STATUS
from patio.engine.base import EngineKind
from patio.metrics.tables import SOURCES, STANDARD
from patio.settings import HONOURED, NOT_YET
from patio.settings.read import _parser

TEXT = (Path(__file__).parents[2] / "docs/sidecar.md").read_text()


def row(name: str) -> str:
    """Return the line that the documentation has for a standard family."""
    cells = []
    for engine in (EngineKind.VLLM, EngineKind.SGLANG):
        sources = SOURCES[engine].get(name, ())
        cells.append(", ".join(source.removeprefix(f"{engine}:") for source in sources) or "-")
    return f"| {name} | {cells[0]} | {cells[1]} |"


@pytest.mark.parametrize("name", [family.name for family in STANDARD])
def test_every_standard_family_stands_in_the_table_with_its_sources(name: str) -> None:
    assert row(name) in TEXT.splitlines()


def test_every_flag_and_variable_is_explained() -> None:
    for action in _parser()._actions:
        for flag in action.option_strings:
            if flag not in ("-h", "--help") and not flag.startswith("--no-"):
                assert f"`{flag}`" in TEXT.replace("--[no-]", "--"), flag
    for variable in HONOURED:
        assert f"`{variable}`" in TEXT
    for variable in NOT_YET:
        assert any(f"`{variable[:cut]}*`" in TEXT for cut in range(2, len(variable))) or f"`{variable}`" in TEXT, (
            variable
        )


def test_every_status_of_a_fault_is_explained() -> None:
    for reason, status in FAULT_STATUS.items():
        assert f"| {status} | `{reason}` |" in TEXT or reason == "EvictedByEngine"

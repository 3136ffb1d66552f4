"""docs/sidecar.md and docs/metrics.md against the program: tables of flags, variables, metrics and statuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from patio.metrics.mappings import SOURCES, STANDARD, VOCABULARIES, Asked, Derived, Source
from patio.routes.adapters import FAULT_STATUS
from patio.settings import VARIABLES, _parser
from patio_protocol.engines import EngineKind

from sidecar_builders import sidecar_metrics

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "sidecar.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()


def row(name: str) -> str:
    """Return the line that the documentation has for a standard family."""
    cells = []
    for engine in (EngineKind.VLLM, EngineKind.SGLANG):
        sources = SOURCES[engine].get(name, ())
        cells.append(", ".join(said(source).removeprefix(f"{engine}:") for source in sources) or "-")
    return f"| {name} | {cells[0]} | {cells[1]} |"


def said(source: Source) -> str:
    if isinstance(source, Asked):
        return source.words
    return f"{source.family} ({source.words})" if isinstance(source, Derived) else source


@pytest.mark.parametrize("name", [family.name for family in STANDARD])
def test_every_standard_family_is_in_the_table_with_sources(name: str) -> None:
    assert row(name) in METRICS.splitlines()


def test_every_other_vocabulary_stands_in_the_table() -> None:
    for prefix, names in VOCABULARIES.items():
        (line,) = [line for line in METRICS.splitlines() if line.startswith("| `") and f"`{prefix}:`" in line[:40]][-1:]
        assert prefix == "patio" or line.endswith(f" | {', '.join(names)} |")


def test_every_metric_of_its_own_stands_in_the_table() -> None:
    registry = CollectorRegistry()
    sidecar_metrics(registry)
    for family in registry.collect():
        assert f"| `{family.name}" in METRICS


def test_every_flag_and_variable_is_explained() -> None:
    for action in _parser()._actions:
        for flag in action.option_strings:
            if flag not in ("-h", "--help") and not flag.startswith("--no-"):
                assert f"`{flag}`" in TEXT.replace("--[no-]", "--"), flag
    for variable in VARIABLES:
        assert f"`{variable}`" in TEXT


def test_every_status_of_a_fault_is_explained() -> None:
    for reason, status in FAULT_STATUS.items():
        assert f"| {status} | `{reason}` |" in TEXT or reason == "EvictedByEngine"

"""The reference of the sidecar against the program: tables of flags, variables, metrics and statuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import patio
from patio.metrics.mappings import SOURCES, STANDARD, VOCABULARIES, Derived, Source, Supplied
from patio.routes.adapters import ERROR_STATUS
from patio.settings import VARIABLES, _parser
from patio_protocol.engines import EngineKind
from patio_testing.sidecar.builders import sidecar_metrics

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = Path(patio.__file__).parent
SETTINGS = (DOCS / "reference/settings.md").read_text()
API = (DOCS / "reference/sidecar-api.md").read_text()
METRICS = (DOCS / "reference/metrics.md").read_text()


def row(name: str) -> list[str]:
    """Return the cells that the documentation has for a standard family, without the marks of code."""
    (line,) = [line for line in METRICS.splitlines() if line.startswith(f"| `patio:{name}` | ")]
    return [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]


def cell_text(source: Source) -> str:
    if isinstance(source, Supplied):
        return source.description
    return f"{source.family} ({source.description})" if isinstance(source, Derived) else source


@pytest.mark.parametrize("name", [family.name for family in STANDARD])
def test_every_standard_family_is_in_the_table_with_its_sources(name: str) -> None:
    sources = [", ".join(cell_text(source) for source in SOURCES[engine].get(name, ())) or "-" for engine in EngineKind]
    assert row(name)[3:] == sources


def test_every_other_vocabulary_stands_in_the_table() -> None:
    for prefix, names in VOCABULARIES.items():
        (line,) = [line for line in METRICS.splitlines() if line.startswith(f"| `{prefix}:` |")]
        assert prefix == "patio" or line.replace("`", "").endswith(f" | {', '.join(names)} |")


def test_every_metric_of_its_own_stands_in_the_table() -> None:
    registry = CollectorRegistry()
    sidecar_metrics(registry)
    for family in registry.collect():
        assert f"| `{family.name}" in METRICS
    named = {name for file in SOURCE.rglob("*.py") for name in re.findall(r'"(patio:\w+)"', file.read_text())}
    assert len(named) > 10
    assert [name for name in sorted(named) if f"| `{name}" not in METRICS] == []


def test_every_flag_and_variable_is_explained() -> None:
    for action in _parser()._actions:
        for flag in action.option_strings:
            if flag not in ("-h", "--help") and not flag.startswith("--no-"):
                assert f"`{flag}`" in SETTINGS.replace("--[no-]", "--"), flag
    for variable in VARIABLES:
        assert f"`{variable}`" in SETTINGS


def test_every_status_of_a_fault_is_explained() -> None:
    for reason, status in ERROR_STATUS.items():
        assert f"| {status} | `{reason}` |" in API or reason == "EvictedByEngine"

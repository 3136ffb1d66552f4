"""The page of LoraAdapters, and that of reasons, against the program: every reason and no other; every field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import patio.adapters
import patio_kube.unreadable_objects
import patio_operator
from patio.engine.base import EngineReason
from patio_api.loraadapter import LoraAdapterSpec, LoraAdapterStatus, Source
from patio_protocol.downloads import DownloadReason

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "concepts/loraadapter.md").read_text()
REASONS = (DOCS / "reference/reasons.md").read_text()
OPERATOR = Path(patio_operator.__file__).parent
SIDECAR = Path(patio.adapters.__file__).parent

SPOKEN_IN = [
    *sorted((OPERATOR / "loraadapters" / "planner").glob("*.py")),
    *(OPERATOR / "loraadapters" / name for name in ("reconciler.py", "secret_reader.py", "service_writer.py")),
    Path(patio_kube.unreadable_objects.__file__),
    *(SIDECAR / name for name in ("executor.py", "planner.py", "staging.py")),
]
"""Where reasons are written down, beside those that are enumerations."""
NO_REASONS = {
    *("Ready", "Progressing", "Degraded", "True", "False"),  # conditions
    *("Pending", "Failed", "Unknown", "Succeeded"),  # states of adapters and pods
    *("Normal", "Warning", "Service"),  # kinds of events and objects
}
OF_THE_SIDECAR_ALONE = {"Unmanaged", "ReloadedByEngine"}
"""Of adapters that no LoraAdapter wants on the pod: its status says `NameTaken`, `Unloading`, or nothing."""


def literals(files: Iterable[Path]) -> Iterator[str]:
    """Yield what is written like a reason: one CamelCase word as a string of its own."""
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and re.fullmatch(r"([A-Z][a-z]+)+", value):
                yield value


CONDITIONS, STATES, EVENTS = "## LoraAdapter conditions", "## State of a pod", "## LoraAdapter events"


def section(text: str, title: str) -> str:
    """Return the text under a heading, up to the next of its rank or above."""
    rank = title.split(" ")[0]
    rest = text.split(f"\n{title}\n")[1]
    return re.split(rf"\n#{{1,{len(rank)}}} ", rest)[0]


def documented(title: str) -> list[str]:
    """Return the words that stand in the first column of the tables under a heading."""
    rows = re.findall(r"^\| (`[^|]*) \|", section(REASONS, title), re.MULTILINE)
    return [literal for row in rows for literal in re.findall(r"`([^`]+)`", row)]


def test_reasons_are_those_that_the_code_gives() -> None:
    shown = {*documented(CONDITIONS), *documented(STATES), *documented(EVENTS)}
    can_be = {*literals(SPOKEN_IN), *EngineReason, *DownloadReason} - OF_THE_SIDECAR_ALONE
    assert shown - NO_REASONS == can_be - NO_REASONS


def test_no_reason_is_explained_twice_in_one_table() -> None:
    for title in (CONDITIONS, STATES, EVENTS):
        rows = [row for row in documented(title) if row not in ("Loaded", "Unloaded")]
        assert len(rows) == len(set(rows)), title


def test_every_field_is_explained() -> None:
    def fields(model: type) -> set[str]:
        return {info.alias or name for name, info in model.model_fields.items()}  # type: ignore[attr-defined]

    spec = section(TEXT, "## Fields")
    for name in fields(LoraAdapterSpec):
        assert f"`{name}" in spec, name
    for name in fields(Source):
        assert f"`source.{name}" in spec, name
    for name in fields(LoraAdapterStatus):
        assert f"`{name}`" in section(TEXT, "## Status"), name

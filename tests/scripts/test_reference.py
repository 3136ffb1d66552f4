"""The generated reference: what the generator reads, it reads whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from scripts.reference import chart, pictures, program, reasons

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/patio"
REFERENCE = ROOT / "docs/reference"


def test_every_documented_reason_is_in_the_code() -> None:
    rows = [str(row[0]) for section in reasons.sections() for row in section["rows"]]
    names = {name.strip() for row in rows for name in row.split(",") if " " not in name.strip()}
    assert len(names) > 100
    assert names - program.reason_like_words() == set()


def test_every_rule_of_the_rbac_is_a_row_with_a_reason() -> None:
    texts = [(CHART / "templates" / name).read_text() for name in chart.RBAC]
    rules = re.findall(r"^ +- apiGroups:", "\n".join(texts), re.M)
    rows = re.findall(r"^\| (?:`|core)", (REFERENCE / "rbac.md").read_text(), re.M)
    assert len(rows) == len(rules)
    cells = [line.split("|")[-2].strip() for line in (REFERENCE / "rbac.md").read_text().splitlines() if "| `" in line]
    assert [cell for cell in cells if not cell or cell.startswith("*")] == []


def test_every_template_with_roles_is_on_the_page() -> None:
    templates = (CHART / "templates").glob("*.yaml")
    assert {path.name for path in templates if re.search(r"^ +verbs:", path.read_text(), re.M)} == set(chart.RBAC)


def test_condition_of_the_rbac_without_a_text_is_an_error() -> None:
    with pytest.raises(KeyError, match="new_switch"):
        chart._meaning(".Values.new_switch")


def test_every_value_of_the_chart_is_a_row() -> None:
    text = (REFERENCE / "helm-values.md").read_text()
    assert [path for path in leaves(yaml.safe_load((CHART / "values.yaml").read_text())) if not shown(path, text)] == []


def leaves(values: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(values, dict) or not values:
        return [path]
    return [leaf for name, value in values.items() for leaf in leaves(value, (*path, name))]


def shown(path: tuple[str, ...], text: str) -> bool:
    """Whether a value has a row, or one that it is part of (`{cpu: 50m, memory: 128Mi}`)."""
    return any(f"| `{'.'.join(path[:length])}` |" in text for length in range(len(path), max(0, len(path) - 2), -1))


def test_every_setting_of_the_operator_has_its_variable() -> None:
    names = [name for variable in program.operator_variables() for name in variable.names]
    read = set(re.findall(r'"((?:PATIO|POD)_[A-Z_]+)"', program.operator_settings_source()))
    assert set(names) == read
    assert len(names) == len(set(names))


@pytest.mark.parametrize("drawing", sorted(pictures.SOURCES.glob("*.yaml")), ids=lambda path: path.stem)
def test_texts_of_a_picture_fit_into_their_boxes(drawing: Path) -> None:
    for name, box in yaml.safe_load(drawing.read_text())["boxes"].items():
        lines = [box.get("title", ""), *box.get("text", ())]
        assert all(len(str(line)) * 6.4 <= box["size"][0] + 20 for line in lines), name

"""The CRDs as one file."""

from __future__ import annotations

from pathlib import Path

import yaml

from patio_release.crds import joined
from patio_release.version import Version

CRDS = Path(__file__).resolve().parents[2] / "charts/patio/crds"


def test_one_file_has_the_crds_of_the_chart() -> None:
    files = {path.name: path.read_text() for path in CRDS.glob("*.yaml")}
    text = joined(files, Version("1.0.0"))
    assert list(yaml.safe_load_all(text)) == [yaml.safe_load(files[name]) for name in sorted(files)]
    assert text.startswith("# The CRDs of Patio 1.0.0.")


def test_crds_with_and_without_a_separator_are_joined_by_one() -> None:
    assert joined({"b": "---\nb: 1", "a": "a: 1\n\n"}, Version("1.0.0")).endswith("---\na: 1\n---\nb: 1\n")

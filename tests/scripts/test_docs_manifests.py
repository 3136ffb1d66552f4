"""Each ModelEndpoint that a page shows is read without an error, and the webhook has nothing to say about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from patio_api.model_endpoint import ModelEndpoint, read
from patio_operator.modelendpoints.validation import problems
from patio_testing.manifests import manifests

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = [
    pytest.param(shown, id=f"{page.relative_to(ROOT)}-{shown['metadata']['name']}")
    for page in PAGES
    for shown in manifests(page, "ModelEndpoint")
]


@pytest.mark.parametrize("shown", SHOWN)
def test_endpoint_that_a_page_shows_is_valid(shown: dict[str, Any]) -> None:
    assert shown["apiVersion"] == f"{ModelEndpoint.group}/{ModelEndpoint.version}"
    endpoint = read(shown)
    assert isinstance(endpoint, ModelEndpoint), endpoint.message
    assert problems(endpoint) == ()
    assert unknown_fields(shown["spec"], endpoint.spec.model_dump(by_alias=True)) == []


def unknown_fields(written: dict[str, Any], read_back: dict[str, Any], path: str = "spec") -> list[str]:
    """Return the fields that the API server would drop: the schema does not have them."""
    found = []
    for name, value in written.items():
        if name not in read_back:
            found.append(f"{path}.{name}")
        elif isinstance(value, dict) and isinstance(read_back[name], dict):
            found += unknown_fields(value, read_back[name], f"{path}.{name}")
        elif isinstance(value, list):
            pairs = zip(value, read_back[name], strict=True)
            found += [each for a, b in pairs if isinstance(a, dict) for each in unknown_fields(a, b, f"{path}.{name}")]
    return found


def test_migration_shows_an_endpoint_for_each_system() -> None:
    names = [each["metadata"]["name"] for each in manifests(ROOT / "docs/migration.md", "ModelEndpoint")]
    assert names == ["qwen25", "deepseek-8b", "opt125m", "llama-3-1-8b"]


def test_field_that_the_schema_does_not_have_is_found() -> None:
    assert unknown_fields({"a": {"b": 1, "c": 2}, "d": [{"e": 1}]}, {"a": {"b": 1}, "d": [{}]}) == [
        "spec.a.c",
        "spec.d.e",
    ]

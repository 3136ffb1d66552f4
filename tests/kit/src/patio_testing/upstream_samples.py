"""Upstream's sample manifests as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SAMPLES = Path(__file__).resolve().parents[3] / "samples" / "rbg"


def as_written(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return upstream's objects of a kind, each with the path of its file."""
    return [
        (str(path.relative_to(SAMPLES)), document)
        for path in sorted(SAMPLES.rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document and document["kind"] == kind
    ]


def sample_id(sample: tuple[str, dict[str, Any]]) -> str:
    """Return the name of the test of a sample."""
    path, document = sample
    return f"{path}:{document['metadata']['name']}"

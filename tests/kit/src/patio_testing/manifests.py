"""The Kubernetes objects that a document shows in its YAML blocks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml


def manifests(document: Path, kind: str) -> list[dict[str, Any]]:
    """Return the objects of a kind that a document shows.

    Raises:
        yaml.YAMLError: a block that names the kind is not YAML.

    """
    blocks = re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL)
    naming = [block for block in blocks if f"kind: {kind}\n" in block]
    found = [each for block in naming for each in yaml.safe_load_all(block) if isinstance(each, dict)]
    return [each for each in found if each.get("kind") == kind]

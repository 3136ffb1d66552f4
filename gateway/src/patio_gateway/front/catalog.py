"""The list of models in OpenAI's shape: models, aliases and adapters. Pure.

An adapter's `parent` is its model, as vLLM has it. A model that sleeps is in the list: a request wakes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from patio_gateway.snapshot import Model

Entry = dict[str, Any]


def model_list(models: Iterable[Model]) -> dict[str, Any]:
    """Return the body of `GET /v1/models`."""
    return {"object": "list", "data": [entry for model in models for entry in _entries(model)]}


def model_entry(models: Iterable[Model], name: str) -> Entry | None:
    """Return the body of `GET /v1/models/NAME`; None if no model, alias or adapter has the name."""
    return next((entry for model in models for entry in _entries(model) if entry["id"] == name), None)


def _entries(model: Model) -> list[Entry]:
    first = model.names[0]
    names = [_entry(model, name, first, None) for name in model.names]
    return names + [_entry(model, name, name, first) for name in model.adapters if name not in model.names]


def _entry(model: Model, name: str, root: str, parent: str | None) -> Entry:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": model.owner or "patio",
        "root": root,
        "parent": parent,
    }

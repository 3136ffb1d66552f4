"""From pydantic's JSON schema to the structural schema that a CRD needs.

Used by `crd` only. Structural means: one type for every field, no references, no alternatives other than
int-or-string. What pydantic writes and Kubernetes does not want (titles, nulls, empty defaults) is dropped;
what Kubernetes wants and pydantic does not know (`x-kubernetes-*`, formats) comes through
`json_schema_extra` of the models. A construct that is not understood is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
OBJECT_DEFAULT = "objectDefault"
"""In `json_schema_extra`: what the API server fills in for an object. pydantic's defaults of objects only say how an
absent one is read."""
_EMPTY_DEFAULTS: tuple[Any, ...] = (None, "", [], {})


class SchemaError(Exception):
    """A model uses something that has no structural schema."""


def structural(model: type[BaseModel]) -> Schema:
    """Return the structural schema of a model, with its fields in the order of the model."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _translate(schema, schema.get("$defs", {}), model.__name__)


def _translate(node: Mapping[str, Any], definitions: Mapping[str, Any], where: str) -> Schema:
    node = _resolved(node, definitions, where)
    translated: Schema = {key: node[key] for key in _KEPT if key in node}
    if translated.get("default", ...) in _EMPTY_DEFAULTS or node.get("type") == "object":
        translated.pop("default", None)
    if OBJECT_DEFAULT in node:
        translated["default"] = node[OBJECT_DEFAULT]
    if "description" in translated:
        translated["description"] = " ".join(translated["description"].split())
    if "properties" in node:
        translated["properties"] = {
            name: _translate(field, definitions, f"{where}.{name}") for name, field in node["properties"].items()
        }
        if node.get("required"):
            translated["required"] = list(node["required"])
    elif "additionalProperties" in node and "x-kubernetes-preserve-unknown-fields" not in node:
        values = node["additionalProperties"]
        if not isinstance(values, Mapping):
            raise SchemaError(f"{where}: a free-form object must be declared Opaque")
        translated["additionalProperties"] = _translate(values, definitions, f"{where}[]")
    if "items" in node:
        translated["items"] = _translate(node["items"], definitions, f"{where}[]")
    translated.update((key, value) for key, value in node.items() if key.startswith("x-kubernetes-"))
    if "type" not in translated and "x-kubernetes-int-or-string" not in translated:
        raise SchemaError(f"{where}: no single type in {dict(node)}")
    return translated


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Inline a reference, take null out of alternatives, and make integer-or-string the one alternative
    allowed."""
    resolved = dict(node)
    if "$ref" in resolved:
        name = resolved.pop("$ref").removeprefix("#/$defs/")
        resolved = {**_resolved(definitions[name], definitions, where), **resolved}
    if "const" in resolved:
        resolved["enum"] = [resolved.pop("const")]
    alternatives = [option for option in resolved.pop("anyOf", []) if option.get("type") != "null"]
    if len(alternatives) == 1:
        resolved = {**_resolved(alternatives[0], definitions, where), **resolved}
    elif {option.get("type") for option in alternatives} == {"integer", "string"}:
        resolved["x-kubernetes-int-or-string"] = True
    elif alternatives:
        raise SchemaError(f"{where}: alternatives other than int-or-string: {alternatives}")
    return resolved

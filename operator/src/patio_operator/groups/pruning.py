"""Takes out of an object what the API server's schema does not have: `prune`.

Called by `reconcile` when the API server rejects an object for a field that it does not know. Pod templates keep
unknown fields in a RoleBasedGroup, since upstream's manifests have some; what is made of them cannot. The schema is
the server's own (OpenAPI v3), so that a field of a newer Kubernetes is never taken for an unknown one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REFERENCE = "#/components/schemas/"

Schema = Mapping[str, Any]


def prune(body: Mapping[str, Any], schemas: Mapping[str, Schema]) -> tuple[dict[str, Any], list[str]]:
    """Return an object without unknown fields, and their paths.

    Args:
        body: the object, with apiVersion and kind.
        schemas: `components.schemas` of the OpenAPI document of its API group and version.

    """
    group, _, version = body["apiVersion"].rpartition("/")
    wanted = {"group": group, "version": version, "kind": body["kind"]}
    root = next(
        (schema for schema in schemas.values() if wanted in (schema.get("x-kubernetes-group-version-kind") or [])), {}
    )
    dropped: list[str] = []
    return _pruned(dict(body), root, schemas, "", dropped), dropped


def _pruned(value: Any, schema: Schema, schemas: Mapping[str, Schema], path: str, dropped: list[str]) -> Any:
    schema = _resolved(schema, schemas)
    if isinstance(value, list) and "items" in schema:
        return [
            _pruned(item, schema["items"], schemas, f"{path}[{index}]", dropped) for index, item in enumerate(value)
        ]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    others = schema.get("additionalProperties")
    if isinstance(others, Mapping):
        return {key: _pruned(item, others, schemas, f"{path}.{key}", dropped) for key, item in value.items()}
    fields = schema.get("properties")
    if not fields:
        return value
    dropped += [f"{path}.{key}".lstrip(".") for key in value if key not in fields]
    return {
        key: _pruned(item, fields[key], schemas, f"{path}.{key}".lstrip("."), dropped)
        for key, item in value.items()
        if key in fields
    }


def _resolved(schema: Schema, schemas: Mapping[str, Schema]) -> Schema:
    """Follow a reference; OpenAPI v3 wraps one in `allOf` where it adds a description or a default."""
    for part in (schema, *schema.get("allOf", [])):
        if "$ref" in part:
            return _resolved(schemas[part["$ref"].removeprefix(_REFERENCE)], schemas)
    return schema

"""The page of the sidecar's routes, read from its OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.reference.markdown import code, page, plain, table

INTRODUCTION = """\
The sidecar serves these routes on port 9091. The [OpenAPI document](../openapi.json) has every schema, with
examples. A running sidecar serves that document at `/openapi.json`, and a browser for it at `/docs`, if it has the
flag `--enable-fastapi-docs`.

Every error is `{"error": {"code", "message", "retryable"}}`. [Access](../concepts/access.md) says who may call
which route. [The sidecar's API](sidecar-api.md) says what loads, unloads and lists do;
[Downloads](../concepts/downloads.md) explains downloads.

Beside a router the sidecar has two more routes, `PUT` and `DELETE /v1/topology/leases/{id}`, which other sidecars call:
[Topology](../concepts/topology.md#with-a-sidecar-beside-the-router). It has no adapter routes and no drain there."""


def write(document: Path) -> str:
    """Return the page."""
    openapi = json.loads(document.read_text())
    parts = []
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            if not path.startswith("/v1/") and f"/v1{path}" in openapi["paths"]:
                parts.append(f"## {method.upper()} {path}\n\nThe same as `{method.upper()} /v1{path}`.")
                continue
            parts.append(_route(method, path, operation, openapi))
    return page("HTTP routes", INTRODUCTION, *parts)


def _route(method: str, path: str, operation: Mapping[str, Any], openapi: Mapping[str, Any]) -> str:
    lines = [f"## {method.upper()} {path}", "", plain(operation.get("description", ""))]
    fields = [*_parameters(operation), *_body(operation, openapi)]
    if fields:
        lines += ["", table(("field", "in", "type", "meaning"), fields)]
    answers = [
        (status, plain(answer.get("description", "")))
        for status, answer in sorted(operation["responses"].items())
        if not status.endswith("XX")
    ]
    lines += ["", table(("status", "meaning"), answers)]
    return "\n".join(lines)


def _parameters(operation: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for parameter in operation.get("parameters", ()):
        name = code(parameter["name"])
        yield (
            f"**{name}**" if parameter.get("required") else name,
            parameter["in"],
            _type(parameter.get("schema", {})),
            plain(parameter.get("description") or parameter.get("schema", {}).get("description", "")),
        )


def _body(operation: Mapping[str, Any], openapi: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = _resolved(content.get("schema", {}), openapi)
    for name, field in schema.get("properties", {}).items():
        label = f"**{code(name)}**" if name in schema.get("required", ()) else code(name)
        yield label, "body", _type(field), plain(field.get("description", ""))


def _resolved(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        found: Mapping[str, Any] = openapi["components"]["schemas"][name]
        return found
    for option in schema.get("anyOf", schema.get("allOf", ())):
        if "$ref" in option:
            return _resolved(option, openapi)
    return schema


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option) for option in schema["anyOf"] if option.get("type") != "null"))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))

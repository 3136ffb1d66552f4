"""The page of the CRDs' fields, read from the CRDs of the chart, which the operator's models write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.reference.markdown import code, page, plain, table

INTRODUCTION = """\
These are the fields of Patio's three kinds, as their CRDs have them. `kubectl explain` shows the same. A field in
**bold** is required where its parent is given. `[]` stands for every entry of a list. Fields that hold a Kubernetes
object of another kind, such as a container or a pod template, are not repeated here.

The pages of concepts explain what the fields do: [LoraAdapter](../concepts/loraadapter.md),
[ClusterEngineRuntimeProfile](../concepts/profile.md), [RoleBasedGroup](../concepts/rolebasedgroup.md)."""

FOREIGN = "x-kubernetes-preserve-unknown-fields"


def write(crds: Path) -> str:
    """Return the page."""
    parts = []
    for path in sorted(crds.glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())["spec"]
        stored = next(version for version in definition["versions"] if version["storage"])
        kind = definition["names"]["kind"]
        schema = stored["schema"]["openAPIV3Schema"]
        others = [version["name"] for version in definition["versions"] if version["served"] and version is not stored]
        also = f" `{others[0]}` is served as well, and deprecated." if others else ""
        names = ", ".join(code(name) for name in definition["names"].get("shortNames", ()))
        short = f" Short name: {names}." if names else ""
        scope = "in a namespace" if definition["scope"] == "Namespaced" else "for the whole cluster"
        parts.append(f"## {kind}\n\n`{definition['group']}/{stored['name']}`, {scope}.{short}{also}")
        parts.append(plain(schema.get("description", "")))
        for part in ("spec", "status"):
            rows = list(_rows(schema["properties"][part], part))
            parts.append(f"### {kind}: {part}\n\n" + table(("field", "type", "default", "meaning"), rows))
        rules = list(_rules(schema, ""))
        if rules:
            parts.append(f"### {kind}: rules\n\n" + table(("of", "an object is rejected with"), rules))
    return page("Fields of the CRDs", INTRODUCTION, *parts)


def _rows(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str, str, str]]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        full_path = f"{path}.{name}"
        label = f"**{code(full_path)}**" if name in required else code(full_path)
        yield label, _type(field), code(_default(field)), plain(field.get("description", ""))
        inner, suffix = (field.get("items", {}), "[]") if field.get("type") == "array" else (field, "")
        if not inner.get(FOREIGN) and "properties" in inner:
            yield from _rows(inner, full_path + suffix)


def _type(field: Mapping[str, Any]) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    kind = str(field.get("type", "anything"))
    if kind == "array":
        return f"list of {field.get('items', {}).get('type', 'anything')}"
    if kind == "object" and isinstance(field.get("additionalProperties"), Mapping):
        return f"map of {field['additionalProperties'].get('type', 'anything')}"
    if "enum" in field:
        return ", ".join(code(str(value)) for value in field["enum"])
    return kind


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rules(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield code(path.removeprefix(".")) or "the object", plain(rule.get("message", rule["rule"]))
    for name, field in schema.get("properties", {}).items():
        yield from _rules(field, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")

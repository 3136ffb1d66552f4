"""The types of OpenAI's requests are loose where engines take more than OpenAI."""

from __future__ import annotations

from typing import Any

from scripts.openai_types import loosened


def test_bounds_values_and_references_are_left_out() -> None:
    schemas: dict[str, Any] = {"Size": {"type": "integer", "minimum": 1, "maximum": 9, "enum": [1, 2]}}
    body = {"type": "object", "properties": {"size": {"$ref": "#/components/schemas/Size"}}, "required": ["size"]}
    assert loosened(body, schemas) == {
        "type": "object",
        "properties": {"size": {"type": "integer"}},
        "required": ["size"],
    }


def test_choice_between_objects_keeps_what_all_have() -> None:
    user = {"type": "object", "properties": {"role": {"type": "string", "enum": ["user"]}}, "required": ["role"]}
    tool = {**user, "properties": {**user["properties"], "id": {"type": "string"}}, "required": ["role", "id"]}  # type: ignore[dict-item]
    assert loosened({"oneOf": [user, tool]}, {}) == {
        "type": "object",
        "properties": {"role": {"type": "string"}},
        "required": ["role"],
    }


def test_choice_between_types_keeps_each_type_once() -> None:
    choice = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": ["string", "null"]}]
    }
    assert loosened(choice, {}) == {
        "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}, {"type": "string"}]
    }


def test_parts_of_parts_are_not_looked_into() -> None:
    part = {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}
    message = {"type": "object", "properties": {"content": {"type": "array", "items": part}}}
    body = {"type": "object", "properties": {"messages": {"type": "array", "items": message}}}
    found = loosened(body, {})["properties"]["messages"]["items"]
    assert found["properties"]["content"] == {"type": "array", "items": {}}

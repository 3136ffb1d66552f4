"""Objects of every shape that a CRD's schema allows, for laws that must hold for all of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

short_texts = st.text(alphabet="abz-/{}\"'$ é", max_size=6)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | short_texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(short_texts, inner, max_size=2),
    max_leaves=4,
)


def allowed_by(schema: Schema) -> st.SearchStrategy[Any]:
    """Return values that a structural schema allows; its validation rules (CEL) are not looked at."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(0, 3) | st.sampled_from(["10%", "50%"])
    match schema["type"]:
        case "object":
            return _objects(schema)
        case "array":
            return _lists(schema)
        case "integer":
            least = schema.get("minimum", -1)
            return st.integers(least, least + 3)
        case "boolean":
            return st.booleans()
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True).filter(
                lambda text: text.isascii() and len(text) <= schema.get("maxLength", 60)
            )
        case "string":
            return short_texts.filter(lambda text: len(text) >= schema.get("minLength", 0))
        case other:
            raise AssertionError(f"no strategy for type {other}")


def _objects(schema: Schema) -> st.SearchStrategy[Any]:
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    if "additionalProperties" in schema:
        return st.dictionaries(short_texts, allowed_by(schema["additionalProperties"]), max_size=2)
    fields = st.fixed_dictionaries(
        {name: allowed_by(properties[name]) for name in required},
        optional={name: allowed_by(field) for name, field in properties.items() if name not in required},
    )
    if not schema.get("x-kubernetes-preserve-unknown-fields"):
        return fields
    unknown = st.dictionaries(short_texts.filter(lambda name: name not in properties), json_values, max_size=2)
    return st.builds(lambda known, more: {**more, **known}, fields, unknown)


def _lists(schema: Schema) -> st.SearchStrategy[Any]:
    items = allowed_by(schema["items"])
    least = schema.get("minItems", 0)
    if "x-kubernetes-list-map-keys" in schema:
        (key,) = schema["x-kubernetes-list-map-keys"]
        return st.lists(items, min_size=least, max_size=3, unique_by=lambda item: str(item[key]))
    return st.lists(items, min_size=least, max_size=2)

"""What the API server's schema does not have is taken out, and nothing else."""

from __future__ import annotations

from typing import Any

from patio_operator.groups.pruning import prune

SCHEMAS: dict[str, Any] = {
    "Set": {
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"allOf": [{"$ref": "#/components/schemas/Meta"}], "default": {}},
            "volumes": {"type": "array", "items": {"default": {}, "allOf": [{"$ref": "#/components/schemas/Volume"}]}},
            "raw": {"type": "object"},
            "amount": {"oneOf": [{"type": "string"}, {"type": "number"}]},
        },
        "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Set"}],
    },
    "Meta": {
        "type": "object",
        "properties": {"labels": {"type": "object", "additionalProperties": {"type": "string"}}},
    },
    "Volume": {"type": "object", "properties": {"name": {"type": "string"}}},
}


def body(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Set"} | fields


def test_unknown_fields_are_pruned_and_their_paths_returned() -> None:
    pruned, dropped = prune(body(volumes=[{"name": "a"}, {"name": "b", "probe": {}}], more=1), SCHEMAS)
    assert pruned == body(volumes=[{"name": "a"}, {"name": "b"}])
    assert sorted(dropped) == ["more", "volumes[1].probe"]


def test_keys_of_maps_and_objects_without_a_schema_stay() -> None:
    original = body(metadata={"labels": {"any": "thing"}}, raw={"a": {"b": 1}}, amount="1Gi")
    assert prune(original, SCHEMAS) == (original, [])


def test_object_of_a_kind_without_schema_stays_as_it_is() -> None:
    original = {"apiVersion": "v1", "kind": "Other", "x": 1}
    assert prune(original, SCHEMAS) == (original, [])

"""The JSON patch (RFC 6902) between a pod and the injected one.

The last step of an admission. Written for what injection does, which is adding keys, appending to lists and
changing values in place: the patch then holds only what was added. Any other difference of two lists
replaces the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Operation = dict[str, Any]


def json_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Operation]:
    """Return the operations that make `after` of `before`."""
    return _of_maps(before, after, "")


def _of_maps(before: Mapping[str, Any], after: Mapping[str, Any], path: str) -> list[Operation]:
    operations: list[Operation] = [
        {"op": "remove", "path": f"{path}/{_escaped(key)}"} for key in before if key not in after
    ]
    for key, value in after.items():
        where = f"{path}/{_escaped(key)}"
        if key not in before:
            operations.append({"op": "add", "path": where, "value": value})
        else:
            operations += _of_values(before[key], value, where)
    return operations


def _of_lists(before: Sequence[Any], after: Sequence[Any], path: str) -> list[Operation]:
    operations: list[Operation] = []
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        operations += _of_values(old, new, f"{path}/{index}")
    operations += [{"op": "add", "path": f"{path}/-", "value": value} for value in after[len(before) :]]
    return operations


def _of_values(before: Any, after: Any, path: str) -> list[Operation]:
    if before == after:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return _of_maps(before, after, path)
    if isinstance(before, list) and isinstance(after, list) and _names(before) == _names(after)[: len(before)]:
        return _of_lists(before, after, path)
    return [{"op": "replace", "path": path, "value": after}]


def _names(values: Sequence[Any]) -> list[Any]:
    """What makes an element of a list the same one: its name, or itself."""
    return [value.get("name") if isinstance(value, Mapping) else value for value in values]


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")

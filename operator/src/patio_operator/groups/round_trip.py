"""What is left of an object when it is written in other words: how `conversion` loses nothing.

`difference` says where the object that came back is not the one that was given; `restore` puts that into the one that
comes back next time. A difference is only restored where the object has not changed since: an edit in the other version
takes precedence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from patio_api.bounded_json import read_json

Object = dict[str, Any]

ROLES = ("spec", "roles")
"""The one list that is compared by the names of its elements; all others are compared whole."""


def difference(came_back: Mapping[str, Any], original: Mapping[str, Any]) -> list[Object]:
    """Return the places where two objects differ, as JSON: `at` a path, what `was` there, what `is` to be there.

    A missing `was` or `is` stands for no value at all.
    """
    return list(_different(_by_name(came_back), _by_name(original), ()))


def restore(body: Mapping[str, Any], differences: Iterable[Mapping[str, Any]]) -> Object:
    """Return a copy of an object with the differences in it that still apply."""
    restored = _by_name(json.loads(json.dumps(body)))
    for difference in differences:
        *parents, name = difference["at"]
        place: Any = restored
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict) or not _same(_field("was", place, name), _field("was", difference, "was")):
            continue
        if "is" in difference:
            place[name] = json.loads(json.dumps(difference["is"]))
        else:
            del place[name]
    return _in_order(restored, body)


def read(text: str) -> list[Object]:
    """Read differences from JSON.

    Raises:
        ValueError: the text is something else.

    """
    differences = read_json(text)
    if not isinstance(differences, list) or not all(_is_difference(difference) for difference in differences):
        raise ValueError("not a list of differences")
    return differences


def _is_difference(entry: Any) -> bool:
    """Tell whether a client may ask for this: parts of the spec and annotations, never who an object is."""
    at = entry.get("at") if isinstance(entry, dict) else None
    if not isinstance(at, list) or not all(isinstance(name, str) for name in at):
        return False
    if at[:2] == ["metadata", "annotations"]:
        annotations = {at[2]: entry.get("is", "")} if len(at) == 3 else entry.get("is", {})
        return isinstance(annotations, dict) and all(isinstance(text, str) for text in annotations.values())
    if tuple(at[:2]) == ROLES:
        return len(at) > 3 and at[3] != "name"
    return len(at) > 1 and at[0] == "spec"


def _different(came_back: Any, original: Any, path: tuple[str, ...]) -> Iterator[Object]:
    if isinstance(came_back, Mapping) and isinstance(original, Mapping):
        for name in sorted({*came_back, *original}):
            if name in came_back and name in original:
                yield from _different(came_back[name], original[name], (*path, name))
            elif path != ROLES:
                yield {"at": [*path, name], **_field("was", came_back, name), **_field("is", original, name)}
    elif not _same(came_back, original):
        yield {"at": list(path), "was": came_back, "is": original}


def _field(key: str, of: Mapping[str, Any], name: str) -> Object:
    return {key: of[name]} if name in of else {}


def _same(value: Any, other: Any) -> bool:
    """Compare as JSON does: True is not 1."""
    return json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)


def _by_name(body: Mapping[str, Any]) -> Object:
    roles = (body.get("spec") or {}).get("roles")
    if not isinstance(roles, Sequence):
        return dict(body)
    return {**body, "spec": {**body["spec"], "roles": {role["name"]: role for role in roles}}}


def _in_order(body: Object, like: Mapping[str, Any]) -> Object:
    roles = (like.get("spec") or {}).get("roles")
    if not isinstance(roles, Sequence):
        return body
    named = body["spec"]["roles"]
    return {**body, "spec": {**body["spec"], "roles": [named[role["name"]] for role in roles]}}

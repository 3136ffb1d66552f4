"""Kubernetes' strategic merge patch for pod templates: `merge(template, patch)`.

Used by `templates` for templateRef.patch. The lists of a pod that merge by a key are the table below; all
others (command, args, tolerations) are replaced. Results, the order of merged lists included, are those of
`kubectl patch`, which the tests hold against recorded ones. The inputs are never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

MERGE_KEYS: Mapping[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "schedulingGates": "name",
    "resourceClaims": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}

_PATCH = "$patch"
_RETAIN_KEYS = "$retainKeys"


class MergeError(Exception):
    """The patch is not one that can be applied; the message says where."""


def merge(original: Mapping[str, Any], patch: Mapping[str, Any], where: str = "patch") -> dict[str, Any]:
    """Return the original with the patch applied. Null deletes; `$patch` and `$retainKeys` are directives.

    Raises:
        MergeError: an unknown directive, or an element of a merged list without its key.

    """
    directive = patch.get(_PATCH)
    if directive == "delete":
        return {}
    if directive not in (None, "replace", "merge"):
        raise MergeError(f"{where}: $patch must be delete, replace or merge, not {directive!r}")
    if directive == "replace":
        return copy.deepcopy({key: value for key, value in patch.items() if key != _PATCH})
    merged: dict[str, Any] = dict(original)
    if _RETAIN_KEYS in patch:
        merged = {key: value for key, value in merged.items() if key in patch[_RETAIN_KEYS]}
    for key, value in patch.items():
        if key in (_PATCH, _RETAIN_KEYS):
            continue
        if key.startswith("$"):
            raise MergeError(f"{where}: the directive {key} is not supported")
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_value(merged.get(key), value, key, f"{where}.{key}")
    return copy.deepcopy(merged)


def _merge_value(original: Any, patch: Any, key: str, where: str) -> Any:
    if isinstance(patch, Mapping):
        return merge(original if isinstance(original, Mapping) else {}, patch, where)
    if isinstance(patch, list) and key in MERGE_KEYS:
        return _merge_list(original if isinstance(original, list) else [], patch, MERGE_KEYS[key], where)
    return patch


def _merge_list(
    original: Sequence[Mapping[str, Any]], patch: Sequence[Mapping[str, Any]], key: str, where: str
) -> list[dict[str, Any]]:
    """Merge element by element: `$patch: delete` takes one away, `$patch: replace` anywhere takes all
    others away."""
    for element in (*original, *patch):
        if not isinstance(element, Mapping):
            raise MergeError(f"{where}: an element is not an object: {element!r}")
    plain = [element for element in patch if element.get(_PATCH) not in ("delete", "replace")]
    if any(element.get(_PATCH) == "replace" for element in patch):
        return [merge({}, element, where) for element in plain]
    deleted = [_key_of(element, key, where) for element in patch if element.get(_PATCH) == "delete"]
    before = [dict(element) for element in original if _key_of(element, key, where) not in deleted]
    merged = {_key_of(element, key, where): element for element in reversed(before)}
    for element in plain:
        name = _key_of(element, key, where)
        merged[name] = merge(merged.get(name, {}), element, f"{where}[{name}]")
    return _ordered(before, merged, [_key_of(element, key, where) for element in plain], key)


def _ordered(
    before: Sequence[dict[str, Any]], merged: Mapping[Any, dict[str, Any]], patched: Sequence[Any], key: str
) -> list[dict[str, Any]]:
    """Put patched elements in the order of the patch, each untouched one before the first patched one that
    it preceded.

    This is what strategicpatch does (mergeSortedSlice in k8s.io/apimachinery): elements that only the patch
    has come before untouched ones.
    """
    position: dict[Any, int] = {}
    for index, element in enumerate(before):
        position.setdefault(element[key], index)
    untouched = [element for element in before if element[key] not in patched]
    result: list[dict[str, Any]] = []
    for name in dict.fromkeys(patched):
        while untouched and name in position and position[untouched[0][key]] < position[name]:
            result.append(untouched.pop(0))
        result.append(merged[name])
    return [*result, *untouched]


def _key_of(element: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in element:
        raise MergeError(f"{where}: an element has no {key}: {dict(element)!r}")
    return element[key]

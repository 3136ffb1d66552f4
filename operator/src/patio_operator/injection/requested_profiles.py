"""What a pod asks for: its label `patio.dev/profile` and its annotation `patio.dev/engine-runtimes`.

The first step of an admission. The label names one profile and is for any pod; the annotation is a JSON
list of a role's engineRuntimes and is put on pod templates by `groups`. The annotation wins where both name
a profile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from patio_api import labels
from patio_api.bounded_json import read_json
from patio_api.rolebasedgroup import EngineRuntime
from patio_operator.injection import limits
from patio_operator.injection.types import PodRejection, RuntimeRef

_RUNTIMES = TypeAdapter(tuple[EngineRuntime, ...])
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""Of an object of the API server; what is no such name is asked for nowhere."""
MOST_OVERRIDES = 64
_TYPES: Mapping[str, type] = {"env": list, "args": list, "ports": list, "resources": dict, "image": str}


def runtimes_of(
    pod: Mapping[str, Any], of_its_role: Sequence[RuntimeRef] = ()
) -> tuple[RuntimeRef, ...] | PodRejection:
    """Return the profiles that a pod asks for, in order, each once.

    Args:
        pod: the pod.
        of_its_role: what its role asks for in observe mode, where the pod itself does not say so. It goes first, and
            where pod and role name the same profile the role's entry is the one.

    """
    metadata = pod.get("metadata") or {}
    if is_worker_of_a_set(metadata):
        return ()
    text = (metadata.get("annotations") or {}).get(labels.ENGINE_RUNTIMES)
    requested: list[RuntimeRef] = list(of_its_role)
    if text is not None:
        entries = read_runtimes(read_json(text))
        if isinstance(entries, str):
            return PodRejection(
                f"The pod's annotation {labels.ENGINE_RUNTIMES} is not a JSON list of engineRuntimes: {entries}",
                "invalid_request",
            )
        requested += [
            RuntimeRef(entry.profile_name, entry.containers, entry.inject_containers)
            for entry in entries
            if all(entry.profile_name != its.profile_name for its in of_its_role)
        ]
    label = (metadata.get("labels") or {}).get(labels.PROFILE)
    if label and all(ref.profile_name != label for ref in requested):
        requested.append(RuntimeRef(label))
    refs: dict[str, RuntimeRef] = {}
    for ref in requested:
        if not is_name(ref.profile_name):
            return PodRejection(
                f"The pod asks for a profile {ref.profile_name[:64]!r}, which is not a valid name: correct it",
                "invalid_request",
            )
        if refs.setdefault(ref.profile_name, ref) != ref:
            return PodRejection(
                f"The pod asks for profile {ref.profile_name!r} twice, with different overrides: "
                "merge the two entries of engineRuntimes into one",
                "invalid_request",
            )
    return tuple(refs.values())


def is_name(text: object) -> bool:
    """Whether an object of the API server may have this name."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def is_worker_of_a_set(metadata: Mapping[str, Any]) -> bool:
    """Whether a pod is one of a LeaderWorkerSet's that serve nothing: adapters go through the leader of its group."""
    index = (metadata.get("labels") or {}).get(labels.LWS_WORKER_INDEX, "0")
    return index != "0" or labels.LWS_LEADER_NAME in (metadata.get("annotations") or {})


def read_runtimes(value: object) -> tuple[EngineRuntime, ...] | str:
    """Return the engineRuntimes that a decoded text has, or what is wrong with it."""
    if not isinstance(value, list):
        return "it is not a list, or is too long or nested too deeply"
    if len(value) > limits.PROFILES:
        return f"it has {len(value)} entries, and Patio takes {limits.PROFILES}"
    try:
        entries = _RUNTIMES.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return limits.shortened(f"{where}: {first['msg']}", 300)
    for entry in entries:
        if len(entry.containers) > MOST_OVERRIDES or len(entry.inject_containers) > MOST_OVERRIDES:
            return f"an entry has more than {MOST_OVERRIDES} containers"
        for override in entry.containers:
            problem = _problem_of(override)
            if problem is not None:
                return f"containers of profile {entry.profile_name[:64]!r}: {problem}"
    return entries


def _problem_of(override: Mapping[str, Any]) -> str | None:
    """Say what makes an override no part of a container."""
    if not isinstance(override.get("name"), str):
        return "an entry has no name"
    for key, type_ in _TYPES.items():
        if override.get(key) is not None and not isinstance(override[key], type_):
            return f"{key} is not {'a list' if type_ is list else 'an object' if type_ is dict else 'a string'}"
    if not all(isinstance(arg, str) for arg in override.get("args") or []):
        return "args has an entry that is not a string"
    for key in ("env", "ports"):
        if len(override.get(key) or []) > limits.OF_A_CONTAINER[key]:
            return f"{key} has more than {limits.OF_A_CONTAINER[key]} entries"
        if not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in override.get(key) or []):
            return f"{key} has an entry without a name"
    if not all(_is_port(port.get("containerPort")) for port in override.get("ports") or []):
        return "ports has an entry without a containerPort from 1 to 65535"
    return None


def _is_port(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 65536

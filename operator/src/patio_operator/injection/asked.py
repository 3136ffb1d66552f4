"""What a pod asks for: its label `patio.dev/profile` and its annotation `patio.dev/engine-runtimes`.

The first step of an admission. The label names one profile and is for any pod; the annotation is a JSON
list of a role's engineRuntimes and is put on pod templates by `groups`. The annotation wins where both name
a profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from patio_operator.api import labels
from patio_operator.api.bounded_json import read_json
from patio_operator.api.rolebasedgroup import EngineRuntime
from patio_operator.injection.words import Refusal, RuntimeRef

_RUNTIMES = TypeAdapter(tuple[EngineRuntime, ...])


def runtimes_of(pod: Mapping[str, Any], of_its_role: Sequence[RuntimeRef] = ()) -> tuple[RuntimeRef, ...] | Refusal:
    """Return the profiles that a pod asks for, in order, each once.

    Args:
        pod: the pod.
        of_its_role: what its role asks for in observe mode, where the pod itself does not say so. It goes first, and
            where pod and role name the same profile the role's entry is the one.

    """
    metadata = pod.get("metadata") or {}
    text = (metadata.get("annotations") or {}).get(labels.ENGINE_RUNTIMES)
    asked: list[RuntimeRef] = list(of_its_role)
    if text is not None:
        try:
            entries = _RUNTIMES.validate_python(read_json(text))
        except ValidationError as error:
            return Refusal(
                f"The pod's annotation {labels.ENGINE_RUNTIMES} is not a JSON list of engineRuntimes: {error}"
            )
        asked += [
            RuntimeRef(one.profile_name, one.containers, one.inject_containers)
            for one in entries
            if all(one.profile_name != its.profile_name for its in of_its_role)
        ]
    label = (metadata.get("labels") or {}).get(labels.PROFILE)
    if label and all(one.profile_name != label for one in asked):
        asked.append(RuntimeRef(label))
    refs: dict[str, RuntimeRef] = {}
    for ref in asked:
        if refs.setdefault(ref.profile_name, ref) != ref:
            return Refusal(
                f"The pod asks for profile {ref.profile_name!r} twice, with different overrides: "
                "merge the two entries of engineRuntimes into one"
            )
    return tuple(refs.values())

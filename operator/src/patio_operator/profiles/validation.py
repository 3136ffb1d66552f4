"""Validates a profile by a minimal pod: what the API server would reject, said in the words of the profile. Pure.

`dry_run` creates `trial_pod` by a dry run and gives the answer to `read_rejection`; `own_checks` and `injection_checks`
are those that only this side knows. In the trial pod the profile's parts stand where they stand in the profile, so that
a path in the one is a path in the other. Where the API server names no path, `narrowed` gives the smaller pods to ask
with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patio_api import labels
from patio_api.invalid_field import InvalidField
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.injection.admission import inject
from patio_operator.injection.types import Container, Pod, PodRejection, Runtime

Path = tuple[str | int, ...]

_LISTS = ("initContainers", "containers", "volumes")
_UNKNOWN_FIELD = re.compile(r'(unknown|duplicate) field "([^"]+)"')
_DECODING = "cannot be handled as a Pod: "
_AFTER_VALIDATION = ("violates PodSecurity", "exceeded quota")
"""Rejections by the namespace of the dry run, which come after the pod itself was found valid."""


@dataclass(frozen=True)
class DryRunResult:
    """What a trial found. With neither problems nor `not_possible` the profile is good."""

    problems: tuple[InvalidField, ...] = ()
    not_possible: str = ""
    """Why it could not be tried, in the API server's words."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.problems)) or self.not_possible


def trial_pod(profile: ClusterEngineRuntimeProfile) -> Pod:
    """Return the smallest pod with everything of a profile in it, in the profile's places."""
    spec = _spec(profile)
    return _pod({**spec, "containers": [*spec["containers"], _engine(spec)]})


def narrowed(profile: ClusterEngineRuntimeProfile, path: Path = ()) -> Iterator[tuple[Path, Pod]]:
    """Yield pods with nothing but one part of what is at a path in the profile's spec, each with that part's path."""
    value: Any = _spec(profile)
    for step in path:
        value = value[step]
    parts: Iterator[tuple[str | int, Any]] = iter(())
    if isinstance(value, Mapping):
        parts = iter(value.items())
    elif isinstance(value, list | tuple):
        parts = iter(enumerate(value))
    for step, part in parts:
        inner = part
        for outer in reversed((*path, step)):
            inner = {outer: inner} if isinstance(outer, str) else [inner]
        yield (*path, step), _pod(inner)


def written(path: Path) -> str:
    """Return a path in the spec as the API server writes it."""
    return "spec" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def read_rejection(status: int, message: str, causes: Sequence[tuple[str, str]]) -> DryRunResult:
    """Read the API server's rejection of the dry-run pod.

    Args:
        status: of its answer.
        message: of its answer.
        causes: field and message of each cause that it gives.

    """
    if status == 422:
        return DryRunResult(tuple(InvalidField(*cause) for cause in causes) or (InvalidField("spec", message),))
    if status == 400 and _DECODING in message:
        unknown = tuple(InvalidField(path, f"{what} field") for what, path in _UNKNOWN_FIELD.findall(message))
        return DryRunResult(unknown or (InvalidField("spec", message.partition(_DECODING)[2]),))
    if status == 403 and any(phrase in message for phrase in _AFTER_VALIDATION):
        return DryRunResult()
    return DryRunResult(not_possible=message)


def own_checks(profile: ClusterEngineRuntimeProfile) -> tuple[InvalidField, ...]:
    """Return what is wrong and the API server takes. It is asked as well: here nothing is known to be well-formed."""
    return (*_ports(profile), *_annotations(profile))


def injection_checks(profile: ClusterEngineRuntimeProfile) -> tuple[InvalidField, ...]:
    """Return why a profile that the API server takes cannot be injected into any pod."""
    pod = {"metadata": {"name": "trial"}, "spec": {"containers": [_engine(_spec(profile))]}}
    result = inject(pod, [Runtime(profile)], [])
    return (InvalidField("spec", result.message),) if isinstance(result, PodRejection) else ()


def _ports(profile: ClusterEngineRuntimeProfile) -> Iterator[InvalidField]:
    """The API server only warns: but one of two that listen on a port does not start."""
    taken: dict[tuple[str, str, str], str] = {}
    spec = _spec(profile)
    running = [
        (f"spec.{key}[{index}]", container)
        for key in ("initContainers", "containers")
        for index, container in enumerate(spec[key])
        if key == "containers" or container.get("restartPolicy") == "Always"
    ]
    for where, container in running:
        ports = container.get("ports")
        for index, port in enumerate(ports if isinstance(ports, list | tuple) else ()):
            if not isinstance(port, Mapping):
                continue  # the API server says so
            for field in ("containerPort", "hostPort"):
                if not port.get(field):
                    continue
                path = f"{where}.ports[{index}].{field}"
                first = taken.setdefault((field, str(port[field]), str(port.get("protocol") or "TCP")), path)
                if first != path:
                    yield InvalidField(path, f"Duplicate value: {port[field]}: {first} is the same port of the pod")


def _annotations(profile: ClusterEngineRuntimeProfile) -> Iterator[InvalidField]:
    at_once = profile.metadata.annotations.get(labels.ROLL_AT_ONCE)
    if at_once is not None and not re.fullmatch(r"[1-9]\d{0,3}", at_once):
        yield InvalidField(
            f"metadata.annotations[{labels.ROLL_AT_ONCE}]", f"Invalid value: {at_once!r}: give a number from 1 to 9999"
        )


def _spec(profile: ClusterEngineRuntimeProfile) -> dict[str, Any]:
    whole = profile.spec.to_api()
    return {key: whole.get(key) or [] for key in _LISTS}


def _engine(spec: Mapping[str, Any]) -> Container:
    """Return a container beside those of a profile, under a name that they leave."""
    names = {container["name"] for key in ("initContainers", "containers") for container in spec[key]}
    name = next(name for name in ("engine", *(f"engine-{n}" for n in range(len(names) + 1))) if name not in names)
    return {"name": name, "image": name}


def _pod(spec: Mapping[str, Any]) -> Pod:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "patio-trial-", "labels": {"app.kubernetes.io/part-of": "patio"}},
        "spec": {"automountServiceAccountToken": False, **spec},
    }

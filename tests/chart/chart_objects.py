"""Finding objects in what Helm renders."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHART = Path(__file__).resolve().parents[2] / "charts" / "patio"
NAMESPACE = "patio-system"

Object = dict[str, Any]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., list[Object]]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [body for body in objects if body["kind"] == kind]


def only(objects: list[Object], kind: str) -> Object:
    (body,) = of_kind(objects, kind)
    return body


def pod_of(objects: list[Object]) -> Object:
    """The pod template of the operator."""
    template: Object = only(objects, "Deployment")["spec"]["template"]
    return template


def container_of(objects: list[Object]) -> Object:
    """The operator's own container."""
    container: Object = pod_of(objects)["spec"]["containers"][0]
    return container


def sidecar_of(objects: list[Object]) -> Object:
    (sidecar,) = only(objects, "ClusterEngineRuntimeProfile")["spec"]["initContainers"]
    found: Object = sidecar
    return found


def variables_of(objects: list[Object]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container_of(objects)["env"]}


def images(objects: list[Object]) -> set[str]:
    return {container_of(objects)["image"], sidecar_of(objects)["image"]}

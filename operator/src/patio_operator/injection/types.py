"""The values that injection takes and gives, and the error that ends it inside.

Used by every module of the package. `InjectionError` never leaves it: `admission` turns it into a `PodRejection`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patio_api.profile import ClusterEngineRuntimeProfile

Pod = dict[str, Any]
Container = dict[str, Any]


@dataclass(frozen=True)
class RuntimeRef:
    """A profile that a pod asks for, by name."""

    profile_name: str
    overrides: tuple[Mapping[str, Any], ...] = ()
    """Containers of the profile to change, as in engineRuntimes[].containers of a RoleBasedGroup's role."""
    inject_containers: tuple[str, ...] = ()
    """Containers of the pod that get the profile's volumes and variables."""
    rendered: bool = False
    """Upstream's controller put the profile into the pod's template, perhaps as it was some time ago."""


@dataclass(frozen=True)
class Runtime:
    """A profile to inject, and how."""

    profile: ClusterEngineRuntimeProfile
    overrides: tuple[Mapping[str, Any], ...] = ()
    inject_containers: tuple[str, ...] = ()
    rendered: bool = False

    @property
    def name(self) -> str:
        """Name of the profile."""
        return self.profile.metadata.name


@dataclass(frozen=True)
class Injection:
    """The injected pod, and what its owner should know about it."""

    pod: Pod
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PodRejection:
    """Why the pod cannot be injected as it asked: a sentence that names both sides."""

    message: str
    reason: str
    """One word for the metrics."""


class InjectionError(Exception):
    """Two sides want what cannot be had together."""


def containers_of(pod: Mapping[str, Any]) -> list[Container]:
    """Return all containers of a pod, init containers first."""
    spec = pod["spec"]
    return [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]


def runs_beside(container: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether a container runs as long as the pod: any but an init container that is not a native sidecar."""
    is_main = any(main["name"] == container["name"] for main in pod["spec"].get("containers") or [])
    return is_main or container.get("restartPolicy") == "Always"

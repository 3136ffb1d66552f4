"""The variables that tell a container which pod of which role of which group it is in.

Both generations of RoleBasedGroup's names are given (RBG_GROUP_NAME and GROUP_NAME, ...), so that programs
written for either work. `groups` puts them into the pod templates it makes, `injection` into the containers
it adds. Only what a pod template can say is said here: values that differ from pod to pod are references.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

EnvVar = dict[str, Any]
EnvSource = Mapping[str, Any]
"""An EnvVar without its name: `{"value": ...}` or `{"valueFrom": ...}`."""


def literal(value: str) -> EnvSource:
    """Return the source of a fixed value."""
    return {"value": value}


def field(path: str) -> EnvSource:
    """Return the source of a field of the pod."""
    return {"valueFrom": {"fieldRef": {"fieldPath": path}}}


def label(key: str) -> EnvSource:
    """Return the source of a label of the pod."""
    return field(f"metadata.labels['{key}']")


@dataclass(frozen=True)
class LeaderWorker:
    """Where a pod is among those of its leader-worker instance."""

    leader_address: EnvSource
    """DNS name of the leader. It may refer to RBG_ROLE_INSTANCE_NAME."""
    index: EnvSource
    """0 for the leader, 1, 2, ... for the workers."""
    size: EnvSource
    """Pods of the instance, the leader included."""


@dataclass(frozen=True)
class RoleIdentity:
    """Who a pod of a role is. What is None is not known and gets no variable."""

    group: str
    role: str
    index: EnvSource | None = None
    instance: EnvSource | None = None
    component: EnvSource | None = None
    component_index: EnvSource | None = None
    leader_worker: LeaderWorker | None = None

    def variables(self) -> list[EnvVar]:
        """Return the variables: the new family sorted by name, those of leader and workers last, then the old one."""
        pairs: tuple[tuple[str, str, EnvSource | None], ...] = (
            ("RBG_COMPONENT_INDEX", "COMPONENT_INDEX", self.component_index),
            ("RBG_COMPONENT_NAME", "COMPONENT_NAME", self.component),
            ("RBG_GROUP_NAME", "GROUP_NAME", literal(self.group)),
            ("RBG_ROLE_INDEX", "ROLE_INDEX", self.index),
            ("RBG_ROLE_INSTANCE_NAME", "INSTANCE_NAME", self.instance),
            ("RBG_ROLE_NAME", "ROLE_NAME", literal(self.role)),
            *self._of_leader_and_workers(),
        )
        available = [(new, old, source) for new, old, source in pairs if source is not None]
        return [
            *({"name": new, **source} for new, _, source in available),
            *({"name": old, **source} for _, old, source in available),
        ]

    def _of_leader_and_workers(self) -> Iterator[tuple[str, str, EnvSource]]:
        if self.leader_worker is not None:
            yield "RBG_LWP_LEADER_ADDRESS", "LWS_LEADER_ADDRESS", self.leader_worker.leader_address
            yield "RBG_LWP_WORKER_INDEX", "LWS_WORKER_INDEX", self.leader_worker.index
            yield "RBG_LWP_GROUP_SIZE", "LWS_GROUP_SIZE", self.leader_worker.size


def put_before(container: dict[str, Any], variables: Iterable[EnvVar]) -> None:
    """Put variables before a container's own, so that its values may refer to them; its own win over ours."""
    own = container.get("env") or []
    taken = {variable["name"] for variable in own}
    missing = [variable for variable in variables if variable["name"] not in taken]
    if missing:
        container["env"] = [*missing, *own]

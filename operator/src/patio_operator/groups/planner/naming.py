"""Names, labels and owner of what a group makes: those of upstream, so that programs find each other by
them.

Used by `validation`, `templates`, `objects` and `instances`. Pods carry the labels of both generations of
RoleBasedGroup; selectors only the new ones, as they can never be changed.
"""

from __future__ import annotations

import hashlib
from typing import Any

from patio_api import labels
from patio_api.pod_identity_env import LeaderWorker, RoleIdentity, field, label, literal
from patio_api.rolebasedgroup import LeaderWorkerPattern, Role, RoleBasedGroup

LEADER, WORKER = "leader", "worker"


def workload(group: RoleBasedGroup, role: Role) -> str:
    """Return the name of a role's StatefulSet; its pods append `-0`, `-1`, ..."""
    return f"{group.metadata.name}-{role.name}"


def instance(group: RoleBasedGroup, role: Role, index: int) -> str:
    """Return the name of an instance: that of its pod, or what its leader and workers append `-0`, `-1`, ... to."""
    return f"{workload(group, role)}-{index}"


def leader(group: RoleBasedGroup, role: Role, index: int) -> str:
    """Return the name of the pod that stands for an instance."""
    name = instance(group, role, index)
    return f"{name}-0" if role.leader_worker_pattern else name


def service(group: RoleBasedGroup, role: Role) -> str:
    """Return the name of a role's headless Service."""
    return f"s-{workload(group, role)}"


def leaders_slice(group: RoleBasedGroup, role: Role) -> str:
    """Return the name of the EndpointSlice that gives leaders the names of their instances."""
    return f"{service(group, role)}-leaders"


def revision(group: RoleBasedGroup, role: Role, hash_: str) -> str:
    """Return the name of the ControllerRevision that keeps a leader-worker role's templates."""
    return f"{workload(group, role)}-{hash_}"


def config_map(group: RoleBasedGroup) -> str:
    """Return the name of the topology ConfigMap."""
    return group.metadata.name


def whole_group(group: RoleBasedGroup) -> dict[str, str]:
    """Return the labels of everything that is made of a group."""
    whole_name = f"{group.metadata.namespace}/{group.metadata.name}"
    return {
        labels.GROUP_NAME: group.metadata.name,
        labels.GROUP_UID: hashlib.sha1(whole_name.encode(), usedforsecurity=False).hexdigest(),
    }


def selector(group: RoleBasedGroup, role: Role) -> dict[str, str]:
    """Return the labels that a role's pods, and only they, have."""
    return {**whole_group(group), labels.ROLE_NAME: role.name}


def service_selector(group: RoleBasedGroup, role: Role) -> dict[str, str]:
    """Return the labels of the pods that have a DNS name of their own."""
    pattern = role.leader_worker_pattern
    if pattern is None or workers_are_reached(role, pattern):
        return selector(group, role)
    return {**selector(group, role), labels.COMPONENT_NAME: LEADER}


def workers_are_reached(role: Role, pattern: LeaderWorkerPattern) -> bool:
    """Tell whether workers have DNS names too: as upstream, which by default makes them for other workloads' roles."""
    if pattern.shared_service_selection is not None:
        return pattern.shared_service_selection == "All"
    kind = role.annotations.get(labels.ROLE_WORKLOAD_TYPE, "RoleInstanceSet")
    return not kind.endswith("RoleInstanceSet")


def pod_labels(group: RoleBasedGroup, role: Role, component: str) -> dict[str, str]:
    """Return the labels that all pods of a role have, of both generations; of a leader-worker role, all of a
    component."""
    pattern = role.leader_worker_pattern
    return {
        **selector(group, role),
        labels.COMPONENT_NAME: component,
        **({} if pattern else {labels.COMPONENT_ID: "0"}),
        labels.COMPONENT_SIZE: str(pattern.size if pattern else 1),
        labels.OLD_GROUP_NAME: group.metadata.name,
        labels.OLD_ROLE_NAME: role.name,
    }


def member_labels(group: RoleBasedGroup, role: Role, index: int, position: int, hash_: str) -> dict[str, str]:
    """Return the labels that only one pod of a leader-worker role has."""
    return {
        labels.ROLE_INSTANCE_NAME: instance(group, role, index),
        labels.ROLE_INSTANCE_INDEX: str(index),
        labels.COMPONENT_INDEX: str(position),
        labels.COMPONENT_ID: str(max(position - 1, 0)),
        labels.POD_REVISION: hash_,
    }


def identity(group: RoleBasedGroup, role: Role, component: str) -> RoleIdentity:
    """Return what the pods of a role know about themselves."""
    pattern = role.leader_worker_pattern
    if pattern is None:
        return RoleIdentity(
            group=group.metadata.name,
            role=role.name,
            index=label(labels.POD_INDEX),
            instance=field("metadata.name"),
            component=literal(component),
            component_index=literal("0"),
        )
    address = f"$(RBG_ROLE_INSTANCE_NAME)-0.{service(group, role)}.{group.metadata.namespace}"
    return RoleIdentity(
        group=group.metadata.name,
        role=role.name,
        index=label(labels.ROLE_INSTANCE_INDEX),
        instance=label(labels.ROLE_INSTANCE_NAME),
        component=literal(component),
        component_index=label(labels.COMPONENT_ID),
        leader_worker=LeaderWorker(literal(address), label(labels.COMPONENT_INDEX), literal(str(pattern.size))),
    )


def owner(group: RoleBasedGroup) -> dict[str, Any]:
    """Return the owner reference that makes a group's objects go with it."""
    return {
        "apiVersion": f"{group.group}/{group.version}",
        "kind": group.kind,
        "name": group.metadata.name,
        "uid": group.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }

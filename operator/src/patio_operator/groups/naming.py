"""Names, labels and owner of what a group makes: those of upstream, so that programs find each other by
them.

Used by `supported`, `templates` and `objects`. Pods carry the labels of both generations of RoleBasedGroup;
selectors only the new ones, as they can never be changed.
"""

from __future__ import annotations

import hashlib
from typing import Any

from patio_operator.api import labels
from patio_operator.api.identity import RoleIdentity, field, label, literal
from patio_operator.api.rolebasedgroup import Role, RoleBasedGroup


def workload(group: RoleBasedGroup, role: Role) -> str:
    """Return the name of a role's StatefulSet; its pods append `-0`, `-1`, ..."""
    return f"{group.metadata.name}-{role.name}"


def service(group: RoleBasedGroup, role: Role) -> str:
    """Return the name of a role's headless Service."""
    return f"s-{workload(group, role)}"


def config_map(group: RoleBasedGroup) -> str:
    """Return the name of the topology ConfigMap."""
    return group.metadata.name


def selector(group: RoleBasedGroup, role: Role) -> dict[str, str]:
    """Return the labels that a role's pods, and only they, have."""
    whole_name = f"{group.metadata.namespace}/{group.metadata.name}"
    return {
        labels.GROUP_NAME: group.metadata.name,
        labels.GROUP_UID: hashlib.sha1(whole_name.encode(), usedforsecurity=False).hexdigest(),
        labels.ROLE_NAME: role.name,
    }


def pod_labels(group: RoleBasedGroup, role: Role) -> dict[str, str]:
    """Return the labels of a role's pods, of both generations."""
    return {
        **selector(group, role),
        labels.COMPONENT_NAME: role.name,
        labels.COMPONENT_ID: "0",
        labels.COMPONENT_SIZE: "1",
        labels.OLD_GROUP_NAME: group.metadata.name,
        labels.OLD_ROLE_NAME: role.name,
    }


def identity(group: RoleBasedGroup, role: Role) -> RoleIdentity:
    """Return what the pods of a role are told about themselves."""
    return RoleIdentity(
        group=group.metadata.name,
        role=role.name,
        index=label(labels.POD_INDEX),
        instance=field("metadata.name"),
        component=literal(role.name),
        component_index=literal("0"),
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

"""The revisions of a leader-worker role: its pod templates by a hash of them, kept in ControllerRevisions.

Used by `instances`, which makes pods of a revision, also of an old one while a rollout spares some. What a
StatefulSet's controller does for its pods, done for pods that have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patio_api import labels
from patio_api.rolebasedgroup import Role, RoleBasedGroup
from patio_operator.groups.planner import naming, templates

Object = dict[str, Any]


@dataclass(frozen=True)
class Revision:
    """The templates of an instance."""

    hash: str
    size: int
    leader: Mapping[str, Any]
    worker: Mapping[str, Any]

    def to_data(self) -> Object:
        """Return what a ControllerRevision keeps."""
        return {"size": self.size, "leader": self.leader, "worker": self.worker}


def wanted(group: RoleBasedGroup, role: Role) -> Revision:
    """Return the revision that a leader-worker role asks for.

    Raises:
        GroupError: as `templates.resolved`.

    """
    assert role.leader_worker_pattern is not None
    size = role.leader_worker_pattern.size
    leader, worker = templates.leader_template(group, role), templates.worker_template(group, role)
    text = json.dumps([size, leader, worker], sort_keys=True)
    return Revision(hashlib.sha256(text.encode()).hexdigest()[:10], size, leader, worker)


def to_object(group: RoleBasedGroup, role: Role, revision: Revision, number: int) -> Object:
    """Return the ControllerRevision that keeps a revision. `number` orders those of a role by age."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": naming.revision(group, role, revision.hash),
            "namespace": group.metadata.namespace,
            "labels": {**naming.selector(group, role), labels.POD_REVISION: revision.hash},
            "ownerReferences": [naming.owner(group)],
        },
        "data": revision.to_data(),
        "revision": number,
    }


def from_object(body: Mapping[str, Any]) -> Revision:
    """Read a ControllerRevision that `to_object` made."""
    data = body["data"]
    return Revision(body["metadata"]["labels"][labels.POD_REVISION], data["size"], data["leader"], data["worker"])

"""A leader-worker role as a roll sees it: what `workloads` is for Deployments, for roles whose pods Patio makes itself.

Its mark is in the group's metadata, from where it gets into the template of its leaders, which are the pods that have
profiles. Whether it is up is seen in those pods: a change of metadata has no generation that a status could name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from patio_api import rollout_annotations
from patio_api.rolebasedgroup import Role, RoleBasedGroup
from patio_operator.pods.profile_use import WorkloadRef
from patio_operator.profiles.planner.consumers import ProfilePod
from patio_operator.profiles.planner.workloads import Workload


def group_and_role(ref: WorkloadRef) -> tuple[str, str]:
    """Return the names of a role's group and of the role."""
    group, _, role = ref.name.partition("/")
    return group, role


def role_of(group: RoleBasedGroup, ref: WorkloadRef) -> Role | None:
    """Return the leader-worker role that a reference names; None when its group has none of that name any more."""
    _, name = group_and_role(ref)
    return next(
        (role for role in group.spec.roles if role.name == name and role.leader_worker_pattern is not None), None
    )


def decode_role(
    ref: WorkloadRef,
    group: RoleBasedGroup,
    role: Role,
    profile: str,
    users: Iterable[ProfilePod],
    spared: int,
    held: str,
) -> Workload:
    """Read a leader-worker role.

    Args:
        ref: the role.
        group: its group.
        role: the role as the group has it.
        profile: name of the profile that is rolled.
        users: the pods that have it.
        spared: how many of the role's instances a roll spares.
        held: why its pods are not replaced, if they are not.

    """
    marks = rollout_annotations.of_role({"annotations": group.metadata.annotations}, role.name)
    own = [user for user in users if user.workload == ref]
    older = sum(user.rolled_for != marks.get(profile, "") for user in own)
    ready = next(
        (role_status.ready_replicas for role_status in group.status.role_statuses if role_status.name == role.name), 0
    )
    if not held and role.replicas and spared >= role.replicas:
        held = "its partition excludes every pod"
    return Workload(
        ref=ref,
        resource_version="",  # its mark is in metadata that it shares: written to the group as it is then
        rolled=marks,
        is_up=older <= spared and len(own) >= role.replicas and ready >= role.replicas,
        progress=ready + len(own) - older,
        held=held,
    )


def group_patch(ref: WorkloadRef, metadata: Mapping[str, Any], rolled_for: Mapping[str, str]) -> dict[str, Any]:
    """Return the patch of a group with this metadata that makes the template of the role's leaders another one."""
    _, role = group_and_role(ref)
    version = metadata["resourceVersion"]
    annotations = rollout_annotations.group_annotation(metadata, role, rolled_for)
    return {"metadata": {"resourceVersion": version, "annotations": annotations}}

"""What to do for a group now: `plan`.

The way into the package for `reconcile`, which executes the plan and comes back when something changes. A
group that cannot be realised as a whole gets a condition and nothing else: what there is of it is neither
changed nor deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from patio_operator.api.rolebasedgroup import Role, RoleBasedGroup
from patio_operator.groups import dependencies, naming, objects, supported
from patio_operator.groups.plans import Event, GroupError, GroupPlan, Ref
from patio_operator.groups.status import Count, count, group_status, readiness

Child = Mapping[str, Any]


def plan(group: RoleBasedGroup, children: Sequence[Child], profiles: Collection[str], now: datetime) -> GroupPlan:
    """Return what to apply and delete for a group, its status, and what its users should hear.

    Args:
        group: the group.
        children: the StatefulSets, Services and ConfigMaps in its namespace that carry its name as a label.
        profiles: names of the ClusterEngineRuntimeProfiles that there are.
        now: the time of what changes now; UTC.

    """
    workloads = {child["metadata"]["name"]: child for child in children if child["kind"] == "StatefulSet"}
    counts = {role.name: _count(group, role, workloads) for role in group.spec.roles}
    try:
        supported.check(group)
        dependencies.check(group.spec.roles)
        _check_names_free(group, children)
    except GroupError as error:
        ready = ("False", error.reason, error.message)
        return GroupPlan((), (), group_status(group, counts, ready, now), tuple(_changes(group, ready)))

    ready_roles = {name for name, one in counts.items() if one.is_ready}
    waiting = {
        role.name: dependencies.unmet(role, ready_roles) for role in group.spec.roles if not counts[role.name].exists
    }
    unknown = {role.name: _unknown_profiles(role, profiles) for role in group.spec.roles}
    realised = [role for role in group.spec.roles if not waiting.get(role.name) and not unknown[role.name]]
    ready = _unknown_profile_condition(unknown) or readiness(counts, waiting)
    return GroupPlan(
        applies=(
            objects.config_map(group),
            *(objects.service(group, role) for role in realised),
            *(objects.stateful_set(group, role) for role in realised),
        ),
        deletes=tuple(_removed(group, children)),
        status=group_status(group, counts, ready, now),
        events=(
            *(
                Event(
                    "Normal",
                    "RoleCreated",
                    f"Creating StatefulSet {naming.workload(group, role)}",
                )
                for role in realised
                if not counts[role.name].exists
            ),
            *_changes(group, ready),
            *_deviations(group),
        ),
    )


def _count(group: RoleBasedGroup, role: Role, workloads: Mapping[str, Child]) -> Count:
    before = next((one.to_api() for one in group.status.role_statuses if one.name == role.name), None)
    workload = workloads.get(naming.workload(group, role))
    return count(role, workload if workload is not None and _is_ours(group, workload) else None, before)


def _is_ours(group: RoleBasedGroup, child: Child) -> bool:
    owners = child["metadata"].get("ownerReferences") or []
    return any(owner.get("controller") and owner["uid"] == group.metadata.uid for owner in owners)


def _names(group: RoleBasedGroup) -> set[tuple[str, str]]:
    """Return kind and name of everything that the group should have."""
    return {
        ("ConfigMap", naming.config_map(group)),
        *(("StatefulSet", naming.workload(group, role)) for role in group.spec.roles),
        *(("Service", naming.service(group, role)) for role in group.spec.roles),
    }


def _check_names_free(group: RoleBasedGroup, children: Sequence[Child]) -> None:
    wanted = _names(group)
    for child in children:
        name = child["metadata"]["name"]
        if (child["kind"], name) in wanted and not _is_ours(group, child):
            raise GroupError(
                "NameTaken",
                f"the group needs a {child['kind']} {name!r}, but there is one that belongs to somebody else: "
                "delete it, or rename the group",
            )


def _removed(group: RoleBasedGroup, children: Sequence[Child]) -> Iterator[Ref]:
    """Yield what is left of roles that the group no longer has."""
    wanted = _names(group)
    for child in children:
        metadata = child["metadata"]
        if (child["kind"], metadata["name"]) not in wanted and _is_ours(group, child):
            yield Ref(child["apiVersion"], child["kind"], metadata["namespace"], metadata["name"], metadata["uid"])


def _unknown_profiles(role: Role, profiles: Collection[str]) -> list[str]:
    return [one.profile_name for one in role.engine_runtimes if one.profile_name not in profiles]


def _unknown_profile_condition(unknown: Mapping[str, Sequence[str]]) -> tuple[str, str, str] | None:
    sentences = [
        f"role {role!r} asks for ClusterEngineRuntimeProfile {name!r}, which does not exist"
        for role, names in unknown.items()
        for name in names
    ]
    if not sentences:
        return None
    return "False", "ProfileNotFound", f"{'; '.join(sentences)}: create it, or correct engineRuntimes"


def _changes(group: RoleBasedGroup, ready: tuple[str, str, str]) -> Iterator[Event]:
    """Yield what changed about the group's readiness since its last status."""
    before = next((one for one in group.status.conditions if one.type == "Ready"), None)
    status, reason, message = ready
    if status == "True":
        if before is None or before.status != "True":
            yield Event("Normal", reason, message)
    elif reason == "RoleNotReady":
        if before is not None and before.status == "True":
            yield Event("Normal", reason, message)
    elif before is None or (before.reason, before.message) != (reason, message):
        yield Event("Warning", reason, message)


def _deviations(group: RoleBasedGroup) -> Iterator[Event]:
    """Say once for each generation of the group what is realised otherwise than asked."""
    if group.status.observed_generation != group.metadata.generation:
        for sentence in supported.deviations(group):
            yield Event("Warning", "NotAsAsked", sentence)

"""What to do for a group now: `plan`.

Called by the feature's `reconciler`, which carries the plan out and comes back when something changes. A group that
cannot be realised as a whole gets a condition and nothing else: what there is of it is neither changed nor deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from patio_api import labels
from patio_api.events import Event
from patio_api.labels import FIELD_MANAGER
from patio_api.owners import controller
from patio_api.rolebasedgroup import Role, RoleBasedGroup
from patio_operator.groups.planner import (
    dependencies,
    instances,
    naming,
    objects,
    restart_state,
    rolling_updates,
    validation,
)
from patio_operator.groups.planner.instances import InstancesPlan
from patio_operator.groups.planner.plan import GroupError, ObjectRef, Plan, ref_of
from patio_operator.groups.planner.snapshot import Child, Snapshot
from patio_operator.groups.planner.status import Count, count, group_status, pod_failure, readiness

NAME_TAKEN_AGAIN = timedelta(seconds=10)
"""Who has the name may go away without an event that says so."""


def plan(snapshot: Snapshot) -> Plan:
    """Return what to do for a group, its status, and its events."""
    group, children, now = snapshot.group, snapshot.children, snapshot.now
    if group.metadata.annotations.get(labels.HAND_OVER) == "true":
        return _hand_over(group, children, now)
    own = _Children(group, children)
    try:
        validation.check(group)
        dependencies.check(group.spec.roles)
        _check_names_free(group, own)
    except GroupError as error:
        ready = ("False", error.reason, error.message)
        return Plan(
            status=group_status(group, _last_counts(group, own), ready, now),
            events=tuple(_changes(group, ready)),
            requeue_at=now + NAME_TAKEN_AGAIN if error.reason == "NameTaken" else None,
        )

    remembered = restart_state.read(own.annotation("ConfigMap", naming.config_map(group), labels.INSTANCES))
    led = {
        role.name: instances.plan(
            group, role, own.members(role), own.revisions(role), remembered.get(role.name, {}), now
        )
        for role in group.spec.roles
        if role.leader_worker_pattern is not None
    }
    counts = {
        role.name: led[role.name].count if role.name in led else _count(group, role, own) for role in group.spec.roles
    }
    ready_roles = {name for name, role_count in counts.items() if role_count.is_ready}
    waiting = {
        role.name: dependencies.unmet(role, ready_roles) for role in group.spec.roles if not counts[role.name].exists
    }
    unknown = {role.name: _unknown_profiles(role, snapshot.profiles) for role in group.spec.roles}
    realised = [role for role in group.spec.roles if not waiting.get(role.name) and not unknown[role.name]]
    role_plans = {role.name: led[role.name] for role in realised if role.name in led}
    restart_states = {
        name: role_plans[name].restart_states if name in role_plans else remembered.get(name, {}) for name in led
    }
    pod_failures = {role.name: pod_failure(own.pods(role)) for role in group.spec.roles}
    ready = _unknown_profile_condition(unknown) or readiness(counts, waiting, pod_failures)
    return Plan(
        checks=tuple(pod for role_plan in role_plans.values() for pod in role_plan.checks),
        adopts=tuple(ref_of(pod) for pod in own.orphaned_pods()),
        tear_down=(
            *(ref for plan in role_plans.values() for ref in plan.tear_down),
            *(ref_of(pod) for role in realised for pod in _faster(group, role, own)),
        ),
        applies=(
            objects.config_map(group, restart_states),
            *(body for role in realised for body in _made(group, role, own, led)),
        ),
        creates=tuple(pod for role_plan in role_plans.values() for pod in role_plan.creates),
        deletes=(*_removed(group, own), *(ref for plan in role_plans.values() for ref in plan.forget)),
        events=(
            *(
                Event("Normal", "RoleCreated", _creating(group, role))
                for role in realised
                if not counts[role.name].exists
            ),
            *(event for role_plan in role_plans.values() for event in role_plan.events),
            *_changes(group, ready),
            *_deviations(group),
        ),
        status=group_status(group, counts, ready, now),
        requeue_at=min(
            (now + role_plan.requeue_after for role_plan in role_plans.values() if role_plan.requeue_after is not None),
            default=None,
        ),
    )


def _hand_over(group: RoleBasedGroup, children: Sequence[Child], now: datetime) -> Plan:
    """Delete everything that was made of a group; what is left is the group, for upstream's controller to build.

    The status says so first: once nothing is left it is upstream's to write.
    """
    own = _Children(group, children)
    left = made_by_patio(group, children)
    if not left:
        return Plan()  # the status is another's now
    ready = (
        "False",
        "HandedOver",
        f"Patio deletes the objects that it made for the group, since the group has the annotation {labels.HAND_OVER}. "
        "Remove the annotation to have Patio realise the group again",
    )
    announced = any(
        condition.type == "Ready" and condition.reason == "HandedOver" for condition in group.status.conditions
    )
    return Plan(
        deletes=left if announced else (),
        events=tuple(_changes(group, ready)),
        status=group_status(group, _last_counts(group, own), ready, now),
    )


def made_by_patio(group: RoleBasedGroup, children: Sequence[Child]) -> tuple[ObjectRef, ...]:
    """Return what Patio made of a group; what upstream's controller makes belongs to the group just as well."""
    own = _Children(group, children)
    return tuple(
        ref_of(child)
        for child in own.all
        if own.is_ours(child)
        and any(entry.get("manager") == FIELD_MANAGER for entry in child["metadata"].get("managedFields") or [])
    )


class _Children:
    """What there is of a group, and whose it is."""

    def __init__(self, group: RoleBasedGroup, children: Sequence[Child]) -> None:
        self.all = children
        self._by_name: dict[tuple[str, str], list[Child]] = {}
        self._by_role: dict[tuple[str, str | None], list[Child]] = {}
        for child in children:
            self._by_name.setdefault((child["kind"], child["metadata"]["name"]), []).append(child)
            self._by_role.setdefault((child["kind"], _role_of(child)), []).append(child)
        self._group_uid = group.metadata.uid
        self._labels = naming.whole_group(group).items()

    def find(self, kind: str, name: str) -> Child | None:
        """Return the group's object of a kind and name."""
        return next(
            (child for child in self._by_name.get((kind, name), ()) if self.is_ours(child) or self.is_orphaned(child)),
            None,
        )

    def annotation(self, kind: str, name: str, key: str) -> str | None:
        """Return an annotation of the group's object of a kind and name."""
        found = self.find(kind, name)
        return None if found is None else (found["metadata"].get("annotations") or {}).get(key)

    def members(self, role: Role) -> list[Child]:
        """Return the pods of a leader-worker role."""
        return [
            child
            for child in self._by_role.get(("Pod", role.name), ())
            if instances.is_member(child) and (self.is_ours(child) or self.is_orphaned(child))
        ]

    def pods(self, role: Role) -> list[Child]:
        """Return the pods of a role, whatever made them."""
        return list(self._by_role.get(("Pod", role.name), ()))

    def pods_of(self, workload: Child) -> list[Child]:
        """Return the pods of a StatefulSet."""
        uid = workload["metadata"].get("uid")
        return [
            child
            for child in self.all
            if child["kind"] == "Pod" and (controller(child["metadata"]) or {}).get("uid") == uid
        ]

    def revisions(self, role: Role) -> list[Child]:
        """Return the ControllerRevisions of a leader-worker role."""
        return [
            child
            for child in self._by_role.get(("ControllerRevision", role.name), ())
            if self.is_ours(child) or self.is_orphaned(child)
        ]

    def orphaned_pods(self) -> list[Child]:
        """Return the pods that lost their group, as by `kubectl delete --cascade=orphan`. Others are applied anyway."""
        return [
            child
            for child in self.all
            if child["kind"] == "Pod" and self.is_orphaned(child) and instances.is_member(child)
        ]

    def is_ours(self, child: Child) -> bool:
        """Tell whether the group controls an object."""
        return (controller(child["metadata"]) or {}).get("uid") == self._group_uid

    def is_orphaned(self, child: Child) -> bool:
        """Tell whether an object was made of a group of that name and has no controller."""
        return controller(child["metadata"]) is None and self._labels <= (child["metadata"].get("labels") or {}).items()


def _role_of(child: Child) -> str | None:
    return (child["metadata"].get("labels") or {}).get(labels.ROLE_NAME)


def _count(group: RoleBasedGroup, role: Role, own: _Children) -> Count:
    before = next(
        (role_status.to_api() for role_status in group.status.role_statuses if role_status.name == role.name), None
    )
    return count(role, own.find("StatefulSet", naming.workload(group, role)), before)


def _last_counts(group: RoleBasedGroup, own: _Children) -> dict[str, Count]:
    """Return what is known of the roles of a group that is not realised."""
    before = {role_status.name: role_status for role_status in group.status.role_statuses}
    counts: dict[str, Count] = {}
    for role in group.spec.roles:
        last = before.get(role.name)
        if role.leader_worker_pattern is None or last is None:
            counts[role.name] = _count(group, role, own)
        else:
            counts[role.name] = Count(role.replicas, last.replicas, last.ready_replicas, last.updated_replicas)
    return counts


def _made(
    group: RoleBasedGroup, role: Role, own: _Children, led: Mapping[str, InstancesPlan]
) -> Iterator[dict[str, Any]]:
    """Yield what a role is made of, apart from the pods of leaders and workers."""
    yield objects.service(group, role)
    if role.name not in led:
        yield objects.stateful_set(group, role)
    else:
        yield objects.leaders_slice(group, role, own.members(role))
        yield led[role.name].revision


def _creating(group: RoleBasedGroup, role: Role) -> str:
    if role.leader_worker_pattern is None:
        return f"Creating StatefulSet {naming.workload(group, role)}"
    size = role.leader_worker_pattern.size
    return f"Creating {role.replicas} instances of {naming.workload(group, role)} with {size} pods each"


def _faster(group: RoleBasedGroup, role: Role, own: _Children) -> Iterator[Child]:
    workload = own.find("StatefulSet", naming.workload(group, role))
    if workload is not None and role.leader_worker_pattern is None:
        yield from rolling_updates.faster(role, workload, own.pods_of(workload))


def _names(group: RoleBasedGroup) -> set[tuple[str, str]]:
    """Return kind and name of everything that the group should have; of ControllerRevisions, what `instances` keeps."""
    names = {("ConfigMap", naming.config_map(group))}
    for role in group.spec.roles:
        names.add(("Service", naming.service(group, role)))
        pattern = role.leader_worker_pattern
        if pattern is None:
            names.add(("StatefulSet", naming.workload(group, role)))
            continue
        names.add(("EndpointSlice", naming.leaders_slice(group, role)))
        names.add(("EndpointSlice", f"{naming.leaders_slice(group, role)}-ipv6"))
        names |= {
            ("Pod", f"{naming.instance(group, role, index)}-{position}")
            for index in range(role.replicas)
            for position in range(pattern.size)
        }
    return names


def _check_names_free(group: RoleBasedGroup, own: _Children) -> None:
    wanted = _names(group)
    for child in own.all:
        name = child["metadata"]["name"]
        if (child["kind"], name) in wanted and not own.is_ours(child) and not own.is_orphaned(child):
            raise GroupError(
                "NameTaken",
                f"the group needs the {child['kind']} {name!r}, which exists and belongs to another owner: "
                "delete it, or rename the group",
            )


def _removed(group: RoleBasedGroup, own: _Children) -> Iterator[ObjectRef]:
    """Yield what is left of roles that the group no longer has, or has in another pattern."""
    wanted = _names(group)
    led = {role.name for role in group.spec.roles if role.leader_worker_pattern is not None}
    for child in own.all:
        by_role = child["kind"] in ("Pod", "ControllerRevision") and _role_of(child) in led  # `instances` knows which
        if own.is_ours(child) and not by_role and (child["kind"], child["metadata"]["name"]) not in wanted:
            yield ref_of(child)


def _unknown_profiles(role: Role, profiles: Collection[str]) -> list[str]:
    return [
        engine_runtime.profile_name
        for engine_runtime in role.engine_runtimes
        if engine_runtime.profile_name not in profiles
    ]


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
    before = next((condition for condition in group.status.conditions if condition.type == "Ready"), None)
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
        for sentence in validation.deviations(group):
            yield Event("Warning", "DiffersFromSpec", sentence)

"""What of a group this version rejects, and what it realises otherwise than the group asks.

The first thing that `planner` asks. A rejection stops the whole group before anything of it is made; its
message names role, field and remedy. The second kind goes into events: the group works, but not exactly as
written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from patio_api import labels
from patio_api.rolebasedgroup import LeaderWorkerPattern, Role, RoleBasedGroup
from patio_api.rolling_update import parameters
from patio_operator.groups.planner import naming, templates
from patio_operator.groups.planner.plan import GroupError

_UPSTREAM = "install upstream's RoleBasedGroup controller, which supports it"
_REALISED = ("StatefulSet", "RoleInstanceSet")
_REALISED_OTHERWISE = ("Deployment", "LeaderWorkerSet", "InstanceSet")
"""Kinds of workloads (the last part of `role-workload-type`)."""
_COMPONENT_DIRECTIVES = (labels.PORT_ALLOCATOR, labels.COMPONENT_DISCOVERY, labels.COMPONENT_DEPENDS_ON)
_LONGEST_HOST_NAME = 63
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST_STATEFUL_SET = 52
"""Its pods carry a label of its name, a dash and a hash of ten characters, in at most 63."""
_PERCENT = re.compile(r"[0-9]{1,3}%")
MOST_ROLES = 64
MOST_PODS = 5_000
"""Of a group. Its topology names every instance, in a ConfigMap that may have 1 MiB."""


def check(group: RoleBasedGroup) -> None:
    """Raise for the first thing of a group that cannot be realised.

    Raises:
        GroupError: with reason `Unsupported`, or what else is wrong with it.

    """
    for field in _unsupported_of(group.metadata.annotations):
        raise _unsupported("the group", field, f"remove it, or {_UPSTREAM}")
    _check_how_many(group)
    for role in group.spec.roles:
        _check_role(group, role)
    _check_pods_apart(group)


def _unsupported_of(annotations: Mapping[str, str]) -> Iterator[str]:
    """Yield what stands in a group's annotations and is not realised, as the version that it was written in says it."""
    if annotations.get(labels.GROUP_GANG, "false") != "false":
        kept = labels.KEPT_POD_GROUP_POLICY in annotations
        yield "spec.podGroupPolicy (v1alpha1)" if kept else f"annotation {labels.GROUP_GANG}"
    exclusive = annotations.get(labels.GROUP_EXCLUSIVE_TOPOLOGY, "false")
    if exclusive != "false":
        old = annotations.get(labels.OLD_EXCLUSIVE_TOPOLOGY) == exclusive
        yield f"annotation {labels.OLD_EXCLUSIVE_TOPOLOGY if old else labels.GROUP_EXCLUSIVE_TOPOLOGY}"
    if labels.KEPT_COORDINATION in annotations:
        yield "spec.coordination (v1alpha1)"


def _check_how_many(group: RoleBasedGroup) -> None:
    roles = group.spec.roles
    if len(roles) > MOST_ROLES:
        remedy = f"make several groups of at most {MOST_ROLES} roles"
        raise _unsupported("the group", f"the number of roles ({len(roles)})", remedy)
    pods = sum(
        role.replicas * max(role.leader_worker_pattern.size if role.leader_worker_pattern else 1, 1) for role in roles
    )
    if pods > MOST_PODS:
        raise _unsupported(
            "the group", f"the number of pods ({pods})", f"make several groups of at most {MOST_PODS} pods"
        )


def _check_role(group: RoleBasedGroup, role: Role) -> None:
    subject = f"role {role.name!r}"
    _check_annotations(role)
    if role.standalone_pattern is None and role.leader_worker_pattern is None:
        if role.custom_components_pattern is not None:
            remedy = f"use standalonePattern or leaderWorkerPattern, or {_UPSTREAM}"
            raise _unsupported(subject, "customComponentsPattern", remedy)
        raise GroupError(
            "InvalidSpec", f"{subject} has no pattern: give it a standalonePattern or a leaderWorkerPattern"
        )
    rolling_update = parameters(role)
    for field, value in (
        ("partition", rolling_update.partition),
        ("maxUnavailable", rolling_update.max_unavailable),
    ):
        if isinstance(value, str) and not _PERCENT.fullmatch(value):
            raise GroupError(
                "InvalidSpec",
                f"{subject}: rolloutStrategy.rollingUpdate.{field} is {value!r}: give a number or a percentage",
            )
    if role.leader_worker_pattern is None:
        _check_name(group, role, _LONGEST_STATEFUL_SET)
        templates.pod_template(group, role)
        return
    _check_size(group, role, role.leader_worker_pattern)
    templates.leader_template(group, role)
    templates.worker_template(group, role)


def _check_annotations(role: Role) -> None:
    subject = f"role {role.name!r}"
    kind = role.annotations.get(labels.ROLE_WORKLOAD_TYPE, "StatefulSet")
    if kind.rsplit("/", 1)[-1] not in (*_REALISED, *_REALISED_OTHERWISE):
        raise _unsupported(subject, f"annotation {labels.ROLE_WORKLOAD_TYPE}={kind}", f"remove it, or {_UPSTREAM}")
    for key in (labels.ROLE_INSTANCE_GANG, labels.ROLE_INPLACE_SCHEDULING):
        if role.annotations.get(key, "false") != "false":
            raise _unsupported(subject, f"annotation {key}", f"remove it, or {_UPSTREAM}")
    components = role.custom_components_pattern.components if role.custom_components_pattern else ()
    for component in components:
        for key in _COMPONENT_DIRECTIVES:
            if key in component.annotations:
                where = f"annotation {key} of component {component.name!r} in customComponentsPattern"
                raise _unsupported(subject, where, f"use standalonePattern or leaderWorkerPattern, or {_UPSTREAM}")


def _check_size(group: RoleBasedGroup, role: Role, pattern: LeaderWorkerPattern) -> None:
    if pattern.size < 1:
        raise GroupError(
            "InvalidSpec",
            f"role {role.name!r}: leaderWorkerPattern.size is {pattern.size}: give 1 or more, since an instance "
            f"has a leader",
        )
    suffix = f"-{max(role.replicas - 1, 0)}-{pattern.size - 1}"
    _check_name(group, role, _LONGEST_HOST_NAME - len(suffix))


def _check_name(group: RoleBasedGroup, role: Role, longest: int) -> None:
    name = naming.workload(group, role)
    if not _DNS_LABEL.fullmatch(name):
        raise GroupError(
            "InvalidSpec",
            f"role {role.name!r}: its pods would be named {name}-0, which is not a valid DNS label: use "
            f"lower-case letters, "
            "digits and dashes in the names of the group and the role",
        )
    if len(name) > longest:
        raise _unsupported(
            f"role {role.name!r}",
            f"the name {name!r} with {len(name)} characters",
            f"shorten the name of the group or the role: together with a dash they may have {longest} characters",
        )


def _check_pods_apart(group: RoleBasedGroup) -> None:
    """Reject roles whose pods would have the same names: `a` with leaders and workers, and `a-0`."""
    for role in group.spec.roles:
        if role.leader_worker_pattern is None:
            continue
        for other in group.spec.roles:
            rest = other.name.removeprefix(f"{role.name}-")
            if other.standalone_pattern is not None and rest != other.name and rest.isdecimal():
                raise GroupError(
                    "InvalidSpec",
                    f"roles {role.name!r} and {other.name!r} would have pods of the same names: rename one of them",
                )


def _unsupported(subject: str, what: str, remedy: str) -> GroupError:
    return GroupError("Unsupported", f"{subject}: {what} is not supported by this version of Patio: {remedy}")


def deviations(group: RoleBasedGroup) -> Iterator[str]:
    """Say what is realised otherwise than asked, one sentence each."""
    if labels.OLD_EXCLUSIVE_TOPOLOGY in group.metadata.annotations:
        yield f"annotation {labels.OLD_EXCLUSIVE_TOPOLOGY} is ignored in v1alpha2; upstream ignores it too"
    for role in group.spec.roles:
        subject = f"role {role.name!r}"
        rolling_update = parameters(role)
        kind = role.annotations.get(labels.ROLE_WORKLOAD_TYPE, "").rsplit("/", 1)[-1]
        if kind in _REALISED_OTHERWISE:
            yield f"{subject}: {_instead(role, kind)}"
        if role.scaling_adapter is not None and role.scaling_adapter.enable:
            yield f"{subject}: scalingAdapter has no effect: scale by editing replicas"
        if role.pod_management_policy == "OrderedReady":
            yield f"{subject}: podManagementPolicy OrderedReady is treated as Parallel"
        if role.annotations.get(labels.ROLE_INSTANCE_PATTERN) == "Stateless":
            yield f"{subject}: the Stateless pattern is realised as Stateful"
        if rolling_update.max_surge not in (0, "0", "0%"):
            yield f"{subject}: maxSurge is treated as 0"
        if (rolling_update.type or "").startswith("InPlace"):
            yield f"{subject}: rolling update type {rolling_update.type} recreates pods"


def _instead(role: Role, kind: str) -> str:
    if role.leader_worker_pattern is None:
        return f"workload kind {kind} is realised as a StatefulSet"
    return f"workload kind {kind} is realised as pods that Patio creates itself, named GROUP-ROLE-INSTANCE-POSITION"

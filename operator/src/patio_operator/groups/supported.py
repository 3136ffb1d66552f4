"""What of a group this version refuses, and what it realises otherwise than the group asks.

The first thing that `planner` asks. A refusal stops the whole group before anything of it is made; its
message names role, field and remedy. The second kind goes into events: the group works, but not exactly as
written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from patio_operator.api import labels
from patio_operator.api.rolebasedgroup import Role, RoleBasedGroup, RollingUpdate
from patio_operator.groups import naming, templates
from patio_operator.groups.plans import GroupError

_UPSTREAM = "install the RoleBasedGroup controller, which realises it"
_WORKLOADS = ("apps/v1/StatefulSet", "workloads.x-k8s.io/v1alpha2/RoleInstanceSet")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST_STATEFUL_SET = 52
"""Its pods carry a label of its name, a dash and a hash of ten characters, in at most 63."""
_PERCENT = re.compile(r"\d+%")


def check(group: RoleBasedGroup) -> None:
    """Raise for the first thing of a group that cannot be realised.

    Raises:
        GroupError: with reason `Unsupported`, or what else is wrong with it.

    """
    annotations = group.metadata.annotations
    for key in (labels.GROUP_GANG, labels.GROUP_EXCLUSIVE_TOPOLOGY):
        if annotations.get(key, "false") != "false":
            raise _unsupported("the group", f"annotation {key}", f"remove it, or {_UPSTREAM}")
    for role in group.spec.roles:
        _check_role(group, role)
        templates.resolved(group, role)


def _check_role(group: RoleBasedGroup, role: Role) -> None:
    who = f"role {role.name!r}"
    if role.leader_worker_pattern is not None:
        raise _unsupported(who, "leaderWorkerPattern", f"use standalonePattern, or {_UPSTREAM}")
    if role.standalone_pattern is None:
        if role.custom_components_pattern is not None:
            raise _unsupported(who, "customComponentsPattern", f"use standalonePattern, or {_UPSTREAM}")
        raise GroupError("InvalidSpec", f"{who} has no pattern: give it a standalonePattern")
    kind = role.annotations.get(labels.ROLE_WORKLOAD_TYPE, _WORKLOADS[0])
    if kind not in _WORKLOADS:
        raise _unsupported(
            who,
            f"annotation {labels.ROLE_WORKLOAD_TYPE}={kind}",
            f"remove it (standalone roles become StatefulSets), or {_UPSTREAM}",
        )
    for key in (labels.ROLE_INSTANCE_GANG, labels.ROLE_INPLACE_SCHEDULING):
        if role.annotations.get(key, "false") != "false":
            raise _unsupported(who, f"annotation {key}", f"remove it, or {_UPSTREAM}")
    _check_name(group, role)
    rolling_update = _rolling_update(role)
    for field, value in (
        ("partition", rolling_update.partition),
        ("maxUnavailable", rolling_update.max_unavailable),
    ):
        if isinstance(value, str) and not _PERCENT.fullmatch(value):
            raise GroupError(
                "InvalidSpec",
                f"{who}: rolloutStrategy.rollingUpdate.{field} is {value!r}: give a number or a percentage",
            )


def _check_name(group: RoleBasedGroup, role: Role) -> None:
    name = naming.workload(group, role)
    if not _DNS_LABEL.fullmatch(name):
        raise GroupError(
            "InvalidSpec",
            f"role {role.name!r}: its pods would be called {name}-0, which is no host name: use lower-case letters, "
            "digits and dashes in the names of the group and the role",
        )
    if len(name) > _LONGEST_STATEFUL_SET:
        raise _unsupported(
            f"role {role.name!r}",
            f"the name {name!r} with {len(name)} characters",
            f"shorten the group's or the role's name: both and a dash may have {_LONGEST_STATEFUL_SET} characters",
        )


def _unsupported(who: str, what: str, remedy: str) -> GroupError:
    return GroupError("Unsupported", f"{who}: {what} is not supported by this version of Patio: {remedy}")


def _rolling_update(role: Role) -> RollingUpdate:
    strategy = role.rollout_strategy
    return (strategy.rolling_update if strategy else None) or RollingUpdate()


def deviations(group: RoleBasedGroup) -> Iterator[str]:
    """Say what is realised otherwise than asked, one sentence each."""
    if labels.OLD_EXCLUSIVE_TOPOLOGY in group.metadata.annotations:
        yield f"annotation {labels.OLD_EXCLUSIVE_TOPOLOGY} is ignored in v1alpha2, by upstream too"
    for role in group.spec.roles:
        who = f"role {role.name!r}"
        rolling_update = _rolling_update(role)
        if role.scaling_adapter is not None and role.scaling_adapter.enable:
            yield f"{who}: there is no scaling adapter: scale by editing replicas"
        if role.pod_management_policy == "OrderedReady":
            yield f"{who}: podManagementPolicy OrderedReady is treated as Parallel"
        if role.annotations.get(labels.ROLE_INSTANCE_PATTERN) == "Stateless":
            yield f"{who}: the Stateless pattern is realised as Stateful"
        if rolling_update.max_surge not in (0, "0", "0%"):
            yield f"{who}: maxSurge is treated as 0"
        if (rolling_update.type or "").startswith("InPlace"):
            yield f"{who}: rolling update type {rolling_update.type} makes pods anew"

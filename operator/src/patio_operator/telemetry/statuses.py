"""Reads of an object's status what the gauges of objects show. Pure.

A status is read as it is in the API server, where other clients may have written it: what is not as the schema says
counts as 0, or as no condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patio_operator.telemetry.object_gauges import NONE_YET, ObjectState

MOST_ROLES = 1_000
"""Roles of a group that are counted. One with more than 64 is not realised, and may have any number."""


def of_adapter(status: Mapping[str, Any]) -> ObjectState:
    """Return what a LoraAdapter's status says."""
    names = ("desiredReplicas", "readyReplicas", "updatedReplicas", "failedReplicas")
    return ObjectState(*_condition(status, "Ready"), tuple(_number(status.get(name)) for name in names))


def of_group(spec: Mapping[str, Any], status: Mapping[str, Any]) -> ObjectState:
    """Return what a RoleBasedGroup's status says; its spec has the replicas that each role should have."""
    roles = [role for role in _list(spec.get("roles"))[:MOST_ROLES] if isinstance(role, Mapping)]
    wanted = {str(role.get("name")): _number(role.get("replicas", 1)) for role in roles}
    observed = {
        str(entry.get("name")): entry
        for entry in _list(status.get("roleStatuses"))[:MOST_ROLES]
        if isinstance(entry, Mapping)
    }
    ready = sum(
        name in observed
        and _number(observed[name].get("readyReplicas")) == _number(observed[name].get("replicas")) == replicas
        for name, replicas in wanted.items()
    )
    return ObjectState(*_condition(status, "Ready"), (len(wanted), ready))


def of_profile(status: Mapping[str, Any]) -> ObjectState:
    """Return what a ClusterEngineRuntimeProfile's status says."""
    numbers = tuple(_number(status.get(name)) for name in ("currentPods", "behindPods"))
    return ObjectState(*_condition(status, "RolledOut"), numbers)


def _condition(status: Mapping[str, Any], type_: str) -> tuple[str, str]:
    for condition in _list(status.get("conditions")):
        if isinstance(condition, Mapping) and condition.get("type") == type_:
            return str(condition.get("status")), str(condition.get("reason"))
    return NONE_YET


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []

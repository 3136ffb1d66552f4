"""What is read of statuses, also of those that no schema has seen."""

from __future__ import annotations

from typing import Any

import pytest

from patio_operator.telemetry import statuses
from patio_operator.telemetry.object_gauges import ObjectState


def condition(type_: str, status: str, reason: str) -> dict[str, str]:
    return {"type": type_, "status": status, "reason": reason}


def test_adapter_is_its_counts_and_its_ready() -> None:
    status = {
        "desiredReplicas": 4,
        "readyReplicas": 3,
        "updatedReplicas": 2,
        "failedReplicas": 1,
        "conditions": [condition("Degraded", "True", "NoCapacity"), condition("Ready", "False", "RollingOut")],
    }
    assert statuses.of_adapter(status) == ObjectState("False", "RollingOut", (4, 3, 2, 1))


def test_role_is_ready_with_exactly_its_replicas_all_ready() -> None:
    spec = {"roles": [{"name": "a", "replicas": 2}, {"name": "b"}, {"name": "c", "replicas": 1}, {"name": "d"}]}
    entries = [
        {"name": "a", "replicas": 2, "readyReplicas": 2},
        {"name": "b", "replicas": 1, "readyReplicas": 0},
        {"name": "c", "replicas": 2, "readyReplicas": 2},
    ]
    status = {"roleStatuses": entries, "conditions": [condition("Ready", "False", "RoleNotReady")]}
    assert statuses.of_group(spec, status) == ObjectState("False", "RoleNotReady", (4, 1))


def test_roles_are_counted_up_to_a_bound() -> None:
    spec = {"roles": [{"name": f"r{number}"} for number in range(statuses.MOST_ROLES + 1)]}
    assert statuses.of_group(spec, {}).numbers == (statuses.MOST_ROLES, 0)
    del spec["roles"][0]
    assert statuses.of_group(spec, {}).numbers == (statuses.MOST_ROLES, 0)
    del spec["roles"][0]
    assert statuses.of_group(spec, {}).numbers == (statuses.MOST_ROLES - 1, 0)


def test_profile_is_its_pods_and_its_rollout() -> None:
    status = {"currentPods": 5, "behindPods": 2, "conditions": [condition("RolledOut", "False", "Stopped")]}
    assert statuses.of_profile(status) == ObjectState("False", "Stopped", (5, 2))


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"conditions": None, "desiredReplicas": "4", "roleStatuses": 7},
        {"conditions": [7, {"type": "Other"}], "currentPods": True, "roleStatuses": ["a"]},
    ],
)
def test_odd_status_is_an_object_without_one(status: dict[str, Any]) -> None:
    assert statuses.of_adapter(status) == ObjectState("Unknown", "NoStatus", (0, 0, 0, 0))
    assert statuses.of_profile(status) == ObjectState("Unknown", "NoStatus", (0, 0))
    assert statuses.of_group({"roles": [7, {"name": "a"}]}, status) == ObjectState("Unknown", "NoStatus", (1, 0))

"""What a pod's status says."""

from __future__ import annotations

from typing import Any

import pytest

from patio_kube.pods import is_leaving, is_ready


def pod(*conditions: tuple[str, str], phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    listed = [{"type": type_, "status": status} for type_, status in conditions]
    return {"metadata": {"name": "p"} | metadata, "status": {"phase": phase, "conditions": listed}}


def test_condition_ready_is_what_counts() -> None:
    assert is_ready(pod(("Initialized", "True"), ("Ready", "True")))
    assert not is_ready(pod(("ContainersReady", "True"), ("Ready", "False")))
    assert not is_ready(pod(("Ready", "Unknown")))


@pytest.mark.parametrize("status", [None, {}, {"conditions": None}])
def test_pod_without_conditions_is_not_ready(status: Any) -> None:
    assert not is_ready({"metadata": {}, "status": status})
    assert not is_leaving({"metadata": {}, "status": status})


def test_pod_leaves_when_it_is_deleted_or_has_finished() -> None:
    assert not is_leaving(pod())
    assert is_leaving(pod(deletionTimestamp="2026-11-27T10:00:00Z"))
    assert [is_leaving(pod(phase=phase)) for phase in ("Succeeded", "Failed", "Pending")] == [True, True, False]

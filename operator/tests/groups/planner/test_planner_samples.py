"""Upstream's samples of RoleBasedGroups: realised, or rejected with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from patio_api.rolebasedgroup import RoleBasedGroup
from patio_operator.groups import conversion
from patio_operator.groups.planner import planner
from patio_operator.groups.planner.snapshot import Snapshot
from patio_testing.upstream_samples import as_written, sample_id

from .test_planner import NOW

PROFILES = {"nvidia-runtime-profile", "sglang-pd-runtime"}


REFUSED = {
    "custom-components-ordered-discovery": "annotation rolebasedgroup.workloads.x-k8s.io/port-allocator",
    "custom-components-pattern": "role 'engine': customComponentsPattern",
    "scheduling/scheduler-plugins-gang": "annotation rbg.workloads.x-k8s.io/group-gang-scheduling",
    "scheduling/volcano-gang": "annotation rbg.workloads.x-k8s.io/group-gang-scheduling",
    "basics/scheduler-plugins-gang": "spec.podGroupPolicy (v1alpha1)",
    "basics/volcano-gang": "spec.podGroupPolicy (v1alpha1)",
    "basics/coordination": "spec.coordination (v1alpha1)",
    "basics/exclusive-topology": "annotation rolebasedgroup.workloads.x-k8s.io/exclusive-topology",
    "instanceset-with-components": "role 'engine': customComponentsPattern",
}
"""What of upstream's samples is not realised, by the end of the file's path, and what is said of it."""


@pytest.mark.parametrize("written", as_written("RoleBasedGroup"), ids=sample_id)
def test_upstreams_groups_are_realised_or_rejected_with_a_reason(written: tuple[str, dict[str, Any]]) -> None:
    path, sample = written
    sample = conversion.convert(sample, conversion.V1ALPHA2)
    sample["metadata"] |= {"namespace": "default", "uid": "u", "generation": 1}
    plan = planner.plan(Snapshot(RoleBasedGroup.model_validate(sample), [], PROFILES, NOW))
    assert plan.status is not None
    (ready,) = plan.status["conditions"]
    refused = next((message for end, message in REFUSED.items() if path.removesuffix(".yaml").endswith(end)), None)
    if refused is None:
        assert ready["reason"] == "RoleNotReady", ready
        assert any(body["kind"] in ("StatefulSet", "Pod") for body in (*plan.applies, *plan.creates))
    else:
        assert ready["reason"] == "Unsupported"
        assert refused in ready["message"]
        assert (plan.applies, plan.creates) == ((), ())

"""What a plan of a profile is made from: the profile and the pods that have it at one moment. Values only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.pods.profile_use import WorkloadRef
from patio_operator.profiles.planner.consumers import ProfilePod
from patio_operator.profiles.planner.workloads import Workload
from patio_operator.profiles.validation import DryRunResult


@dataclass(frozen=True)
class Snapshot:
    """A profile."""

    profile: ClusterEngineRuntimeProfile
    """With its status as it was."""
    revision: str
    """Of what it says now."""
    dry_run: DryRunResult
    pods: Sequence[ProfilePod]
    """Those that have it."""
    workloads: Mapping[WorkloadRef, Workload]
    """Those of `workloads_to_read` that are there."""
    now: datetime
    """When it was taken; UTC."""
    unread: Collection[WorkloadRef] = ()
    """Those of `workloads_to_read` of which nothing is known yet: a workload that is not ready waits until it is known
    whether some of them are."""

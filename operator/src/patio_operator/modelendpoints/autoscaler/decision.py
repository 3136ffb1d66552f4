"""What the autoscaler decides: `Decision`, and its reasons. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from patio_operator.modelendpoints.autoscaler.memory import ScalingMemory


class Reason(StrEnum):
    """Why a ModelEndpoint has the number of workers that it has. Stable: dashboards and tests name them."""

    DEMAND_ROSE = "DemandRose"
    DEMAND_FELL = "DemandFell"
    DEMAND_MET = "DemandMet"
    WOKEN_BY_DEMAND = "WokenByDemand"
    SCALED_TO_ZERO = "ScaledToZero"
    RECENT_PEAK = "RecentPeak"
    RECENT_REQUEST = "RecentRequest"
    WORKERS_DRAINING = "WorkersDraining"
    WORKERS_LOADING = "WorkersLoading"
    MINIMUM_WORKERS = "MinimumWorkers"
    MAXIMUM_WORKERS = "MaximumWorkers"
    FIRST_WORKER_PENDING = "FirstWorkerPending"
    WORKERS_NOT_STARTING = "WorkersNotStarting"
    DEMAND_UNKNOWN = "DemandUnknown"
    WORKERS_UNKNOWN = "WorkersUnknown"
    HISTORY_UNKNOWN = "HistoryUnknown"


@dataclass(frozen=True, slots=True)
class Decision:
    """How many workers there should be, and why."""

    replicas: int
    """What the scale subresource should ask for now. Less than before only by workers that can be removed now."""
    reason: Reason
    message: str
    """A sentence with the numbers that decided."""
    memory: ScalingMemory
    """For the next step, and for the status."""
    drain: int = 0
    """How many ready workers should get no new requests, because demand does not need them: `victims.choose_drains`
    says which. They are removed by a later step, when they are idle."""
    look_again_at: datetime | None = None
    """When to plan again though nothing was reported. None: not before a report."""

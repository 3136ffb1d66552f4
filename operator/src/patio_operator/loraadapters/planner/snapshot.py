"""What a plan is made from: one namespace at one moment. Values only.

The reconciler takes it, `planner.plan` reads it, and nothing else goes into a plan: the same snapshot gives the same
plan. What concerns one pod (rejections, label times) is put on the pod when the plan begins (`candidates.observe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.credentials import Credentials
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.plan import Condition, Order, Rejection
from patio_operator.pods.engine_pod import EnginePod


@dataclass(frozen=True)
class Snapshot:
    """A namespace."""

    pods: Sequence[EnginePod]
    """Every pod with a sidecar."""
    observations: Mapping[str, Observation]
    """What their sidecars report, by pod UID."""
    adapters: Sequence[LoraAdapter]
    """Every LoraAdapter, those being deleted included."""
    now: datetime
    """When it was taken, by the operator's clock."""
    credentials: Mapping[str, Credentials | Condition] = field(default_factory=dict)
    """What there is for the LoraAdapters that have a secretRef, by object name."""
    rejections: Mapping[tuple[str, Order], Rejection] = field(default_factory=dict)
    """Orders that a sidecar rejected, by pod UID and order (as the plan had it, without secrets). One whose time is
    over is still shown until it is removed: the order may be rejected once more."""
    unlabelled_at: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    """When the label of an adapter was last removed from a pod, by pod UID and adapter name; what is absent was long
    ago. Only a removal that really changed the pod counts. A label that a patch in progress may set counts as removed
    now."""
    deleted_at: Mapping[str, datetime] = field(default_factory=dict)
    """When the operator first saw that a LoraAdapter is deleted, by UID; for what is absent the API server's time
    counts."""

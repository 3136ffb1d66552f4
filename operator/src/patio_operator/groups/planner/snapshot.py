"""What a plan of a group is made from: the group and what there is of it at one moment. Values only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from patio_api.rolebasedgroup import RoleBasedGroup

Child = Mapping[str, Any]
"""An object of a kind that groups are made of."""


@dataclass(frozen=True)
class Snapshot:
    """A group."""

    group: RoleBasedGroup
    children: Sequence[Child]
    """The objects in its namespace that carry its name as a label, of all kinds that groups are made of."""
    profiles: Collection[str]
    """Names of the ClusterEngineRuntimeProfiles that there are."""
    now: datetime
    """When it was taken; UTC."""

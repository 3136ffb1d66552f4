"""How many of a role's instances an update may replace, and how many at once: what its rolloutStrategy says. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from patio_api.rolebasedgroup import Role, RollingUpdate


@dataclass(frozen=True)
class RollingUpdateLimits:
    """Numbers of instances."""

    partition: int
    """Instances with an index below it keep the revision that they have."""
    max_unavailable: int
    """Instances that may be down at once; at least 1, as there is no surge."""


def parameters(role: Role) -> RollingUpdate:
    """Return what a role says about its updates, or the defaults."""
    strategy = role.rollout_strategy
    return (strategy.rolling_update if strategy else None) or RollingUpdate()


def limits_of(role: Role) -> RollingUpdateLimits:
    """Return how a role's instances are updated. Percentages of its replicas are rounded up."""
    wanted = parameters(role)
    partition = role.replicas if wanted.paused else _scaled(wanted.partition, role.replicas)
    return RollingUpdateLimits(partition, max(1, _scaled(wanted.max_unavailable, role.replicas)))


def kept_by_partition(role: Role) -> int:
    """Return how many instances of a role keep the revision that they have."""
    return min(limits_of(role).partition, role.replicas)


def _scaled(value: int | str, replicas: int) -> int:
    if isinstance(value, int):
        return value
    return math.ceil(int(value.rstrip("%")) * replicas / 100)

"""What a pod's readiness waits for, as values: of which kind each reason is, and what `/ready` says of it. Pure.

Each feature says what it waits for; `app` puts that together for the route, and `metrics.readiness` counts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BlockerKind(StrEnum):
    """What is waited for: the values of a metric's label."""

    ENGINE = "engine"
    ADAPTER = "adapter"
    DRAIN = "drain"
    """The pod was drained, and stays out of service."""
    ROUTER = "router"
    """Beside a router, which does not answer."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """One thing that readiness waits for."""

    kind: BlockerKind
    message: str

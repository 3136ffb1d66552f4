"""What the gateway's replicas report, added up for one ModelEndpoint. Pure.

A report that is too old counts for nothing: its replica is gone, or cannot write. Without a fresh report the demand is
unknown, which is not the same as none: whoever scales holds what there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from patio_api.demand_report import DemandReport

STALE_AFTER = timedelta(seconds=30)
"""A replica reports each change within a second, and otherwise every five seconds."""
AHEAD = timedelta(minutes=5)
"""By which the clock of a gateway's node may be ahead of the operator's. A report from later than that is left out."""
MOST_REPORTS = 1_000
"""That are added up: replicas of the gateway."""


@dataclass(frozen=True)
class Demand:
    """The demand for a ModelEndpoint, over all replicas of the gateway."""

    reported: bool = False
    """Whether a fresh report is among those that were added up."""
    in_flight: int = 0
    held: int = 0
    last_activity: datetime | None = None
    """When a request last came or ended, by any report, fresh or not; None: not known."""


UNKNOWN = Demand()
"""Nobody has reported."""


def demand_of(endpoint: str, reports: Iterable[DemandReport], now: datetime) -> Demand:
    """Return the demand for one ModelEndpoint.

    Args:
        endpoint: `namespace/name`.
        reports: of the gateway's replicas.
        now: by the operator's clock; UTC.

    """
    reported, in_flight, held = False, 0, 0
    activities: list[datetime] = []
    for _, report in zip(range(MOST_REPORTS), reports, strict=False):
        age = now - report.spec.reported_at
        if age < -AHEAD:
            continue
        fresh = age <= STALE_AFTER
        reported = reported or fresh
        for entry in report.spec.endpoints:
            if entry.endpoint != endpoint:
                continue
            if entry.last_activity is not None:
                activities.append(min(entry.last_activity, now))
            if fresh:
                in_flight += entry.in_flight
                held += entry.held
    return Demand(reported, in_flight, held, max(activities, default=None))

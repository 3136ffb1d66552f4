"""How much is asked of a model now, from the reports of several gateways and of the queue: `demand_at`. Pure.

Each gateway replica knows its own requests only. A report that is older than REPORT_BOUND is missing: its numbers are
still added, so that demand is not lost with a report, but the sum is no longer complete, and `planner` removes nothing
by it. After REPORT_KEPT the numbers are forgotten too, and the sum stays incomplete as long as the gateway is listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from patio_operator.modelendpoints.autoscaler.observation import Observations

REPORT_BOUND = timedelta(seconds=15)
"""How old a report may be. Gateways report at each change of demand, and at least each five seconds."""
REPORT_KEPT = timedelta(minutes=5)
"""How long the numbers of a gateway count that has stopped reporting: as long as its clients wait in a queue."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests and tasks that ask for a worker at one moment."""

    in_flight: int
    held: int
    queued: int
    last_request: datetime | None
    """The last that any gateway reported, not later than now."""
    missing: tuple[str, ...]
    """Gateways without a fresh report, sorted."""
    unlisted: bool
    """Whether it is unknown which gateways there are, or there is none."""
    queue_missing: bool
    """Whether the queue must be known, and is not."""

    @property
    def total(self) -> int:
        """Requests and tasks together."""
        return self.in_flight + self.held + self.queued

    @property
    def complete(self) -> bool:
        """Whether nothing can have been overlooked."""
        return not (self.missing or self.unlisted or self.queue_missing)


def demand_at(now: datetime, observations: Observations, queued: bool) -> Demand:
    """Add up the reports.

    A gateway that has just become ready is not missed for REPORT_BOUND. A gateway that is no longer listed is not
    missed: its fresh report counts, an older one does not, because its requests ended with it.

    Args:
        now: the operator's time.
        observations: what is seen now.
        queued: whether the queue must be known.

    """
    gateways = observations.gateways or ()
    listed = {gateway.name for gateway in gateways}
    fresh: set[str] = set()
    in_flight = held = 0
    last_request: datetime | None = None
    for report in observations.reports:
        age = now - report.at
        if _fresh(age):
            fresh.add(report.gateway)
        elif age > REPORT_KEPT or (report.gateway not in listed and observations.gateways is not None):
            continue
        in_flight += report.in_flight
        held += report.held
        if report.last_request is not None:
            last = min(report.last_request, now)
            last_request = last if last_request is None else max(last_request, last)
    queue = observations.queue
    queue_fresh = queue is not None and _fresh(now - queue.at)
    counts = queue is not None and now - queue.at <= REPORT_KEPT
    return Demand(
        in_flight=in_flight,
        held=held,
        queued=queue.waiting + queue.running if queue is not None and counts else 0,
        last_request=last_request,
        missing=tuple(
            sorted(each.name for each in gateways if each.name not in fresh and now - each.since > REPORT_BOUND)
        ),
        unlisted=not gateways,
        queue_missing=(queued or queue is not None) and not queue_fresh,
    )


def _fresh(age: timedelta) -> bool:
    """Tell whether a report counts as of now. One from the future was there before the clock was set back."""
    return abs(age) <= REPORT_BOUND

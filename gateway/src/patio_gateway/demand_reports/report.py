"""What a replica reports of the demand, and when (decision 0053). Pure.

Requests that are held are known by the front, those in flight by Envoy. Envoy counts the requests that have ended too:
by that a request is seen which came and went between two looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from patio_api.demand_report import MAX_ENDPOINTS, DemandReportSpec, EndpointDemand

CHANGE_SECONDS: Final = 1.0
"""Between two reports, where the demand is another one."""
SAME_SECONDS: Final = 5.0
"""Between two reports of the same demand. The autoscaler misses a replica that is silent for 15 seconds."""

MOST: Final = 2**31 - 1
"""What a field of a report can hold."""


@dataclass(frozen=True)
class Traffic:
    """What Envoy counts, by ModelEndpoint."""

    in_flight: Mapping[str, int]
    """Requests that a worker is answering."""
    ended: Mapping[str, int]
    """Requests that have ended since Envoy started."""


@dataclass(frozen=True)
class Waiting:
    """What the front knows of a ModelEndpoint."""

    held: int
    last_activity: float
    """Unix time of the last request that came to the front; 0 if none did."""


@dataclass(frozen=True)
class EndpointState:
    """The demand for a ModelEndpoint."""

    in_flight: int = 0
    held: int = 0
    last_activity: float = 0.0
    """Unix time; 0 if it is not known."""

    @property
    def total(self) -> int:
        """Requests that ask for a worker."""
        return self.in_flight + self.held


State = Mapping[str, EndpointState]
"""By ModelEndpoint (`namespace/name`)."""


def observe(
    before: State,
    last: Traffic | None,
    traffic: Traffic | None,
    waiting: Mapping[str, Waiting],
    endpoints: Iterable[str],
    now: float,
) -> State:
    """Return the demand now, of ModelEndpoints that have or had any.

    Args:
        before: the last that this returned.
        last: what Envoy counted then; None: nothing is known.
        traffic: what it counts now; None: it does not answer, and what was in flight is still.
        waiting: what the front knows.
        endpoints: the ModelEndpoints that exist.
        now: Unix time.

    """
    found = {}
    for endpoint in endpoints:
        state = before.get(endpoint, EndpointState())
        at_front = waiting.get(endpoint)
        in_flight = state.in_flight if traffic is None else max(traffic.in_flight.get(endpoint, 0), 0)
        held = 0 if at_front is None else at_front.held
        has_ended = (
            traffic is not None and last is not None and traffic.ended.get(endpoint, 0) != last.ended.get(endpoint, 0)
        )
        activity = max(state.last_activity, 0.0 if at_front is None else at_front.last_activity)
        if in_flight or held or has_ended:
            activity = now
        if in_flight or held or activity:
            found[endpoint] = EndpointState(in_flight, held, activity)
    return found


def due_in(reported: State | None, state: State, since: float) -> float:
    """Return after how many seconds a report is due; 0: now, since a worker may have to be started for a first request.

    Args:
        reported: what the last report said; None: there was none.
        state: the demand now.
        since: seconds since the last report.

    """
    if reported is None:
        return 0.0
    nothing = EndpointState()
    if any(each.total and not reported.get(endpoint, nothing).total for endpoint, each in state.items()):
        return 0.0
    return max((SAME_SECONDS if _counts(reported) == _counts(state) else CHANGE_SECONDS) - since, 0.0)


def _counts(state: State) -> Mapping[str, tuple[int, int]]:
    return {endpoint: (each.in_flight, each.held) for endpoint, each in state.items() if each.total}


def report_of(gateway: str, state: State, now: float, at: datetime) -> DemandReportSpec:
    """Return what a report says.

    Args:
        gateway: name of the pod.
        state: the demand.
        now: Unix time, of the clock of `state`.
        at: the same moment by the API server's clock.

    """
    ordered = sorted(state.items(), key=lambda item: (-item[1].total, -item[1].last_activity, item[0]))
    entries: list[EndpointDemand] = []
    for endpoint, each in ordered:
        if len(entries) == MAX_ENDPOINTS:
            break
        last = at - timedelta(seconds=max(now - each.last_activity, 0.0)) if each.last_activity else None
        try:
            entries.append(
                EndpointDemand(
                    endpoint=endpoint,
                    in_flight=min(each.in_flight, MOST),
                    held=min(each.held, MOST),
                    last_activity=last,
                )
            )
        except ValidationError:
            continue  # a name that the CRD of now does not allow any more
    return DemandReportSpec(gateway=gateway, reported_at=at, endpoints=tuple(entries))

"""The demand for models that Envoy cannot see: requests that wait, and when a model was last asked for. Pure.

The autoscaler reads it, in the words of `as_json`. What is in flight at workers is counted by Envoy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from patio_gateway.front.queue.queues import Held


@dataclass(frozen=True)
class Demand:
    """The demand for a ModelEndpoint."""

    endpoint: str
    held: int
    oldest_wait: float
    """Seconds that the oldest of the held requests has waited; 0 if none waits."""
    last_activity: float
    """Unix time of the last request for it that came to the front."""


def demand(held: Mapping[str, Held], activity: Mapping[str, float], now: float) -> tuple[Demand, ...]:
    """Return the demand for each ModelEndpoint that was asked for.

    Args:
        held: what waits; times are of the clock of `now`.
        activity: Unix time of the last request, by ModelEndpoint.
        now: seconds, of the clock of `held`.

    """
    return tuple(
        Demand(
            endpoint=endpoint,
            held=waiting.count if waiting is not None else 0,
            oldest_wait=max(now - waiting.oldest, 0.0) if waiting is not None else 0.0,
            last_activity=activity.get(endpoint, 0.0),
        )
        for endpoint in sorted({*held, *activity})
        for waiting in [held.get(endpoint)]
    )


def as_json(version: int, demands: tuple[Demand, ...]) -> dict[str, object]:
    """Return the body of `GET /demand`; a reader gives `version` back as `after`."""
    return {
        "version": version,
        "endpoints": [
            {
                "endpoint": each.endpoint,
                "held": each.held,
                "oldestWaitSeconds": round(each.oldest_wait, 3),
                "lastActivity": round(each.last_activity, 3),
            }
            for each in demands
        ],
    }

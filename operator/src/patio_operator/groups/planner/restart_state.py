"""What has to be remembered of a leader-worker instance from pass to pass, and what its restart policy makes of it.

Used by `instances`. It is kept as JSON in an annotation of the group's ConfigMap, since pods come and go and the
operator keeps nothing. Time is an argument.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from patio_api.bounded_json import read_object
from patio_api.conditions import TIME_FORMAT, time_of
from patio_api.rolebasedgroup import LeaderWorkerPattern, RestartPolicyConfig
from patio_protocol.backoff import exponential

RECREATE = "RecreateRoleInstanceOnPodRestart"
_FORGET_AFTER = timedelta(minutes=10)


@dataclass(frozen=True)
class RestartState:
    """One instance."""

    ready: bool = False
    """Whether all its pods were ready since they were made: only then is a restart one."""
    restarts: int = 0
    """Restarts of its containers up to then."""
    recreations: int = 0
    """How often it was recreated because of a restart, in a row."""
    recreated_at: datetime | None = None
    """When it last was; UTC."""

    def to_json(self) -> dict[str, Any]:
        """Return only what differs from the defaults."""
        return {
            **({"ready": True} if self.ready else {}),
            **({"restarts": self.restarts} if self.restarts else {}),
            **({"recreations": self.recreations} if self.recreations else {}),
            **({"recreatedAt": self.recreated_at.strftime(TIME_FORMAT)} if self.recreated_at else {}),
        }


RestartStates = Mapping[str, Mapping[int, RestartState]]
"""By role and index."""


def read(text: str | None) -> RestartStates:
    """Read the annotation; nothing is remembered when it is missing or not Patio's."""
    try:
        return {
            role: {int(index): _entry(entry) for index, entry in entries.items()}
            for role, entries in read_object(text).items()
        }
    except (ValueError, TypeError, AttributeError, OverflowError):
        return {}


def _entry(entry: Mapping[str, Any]) -> RestartState:
    at = entry.get("recreatedAt")
    return RestartState(
        ready=bool(entry.get("ready")),
        restarts=int(entry.get("restarts", 0)),
        recreations=int(entry.get("recreations", 0)),
        recreated_at=time_of(at) if at else None,
    )


def write(restart_states: RestartStates) -> str:
    """Return the annotation: the same text for the same restart_states."""
    kept = {
        role: {str(index): entry.to_json() for index, entry in entries.items() if entry != RestartState()}
        for role, entries in restart_states.items()
    }
    return json.dumps({role: entries for role, entries in kept.items() if entries}, sort_keys=True)


def policy(pattern: LeaderWorkerPattern) -> RestartPolicyConfig:
    """Return a role's restart policy, with its type filled in as upstream does."""
    config = pattern.restart_policy_config or RestartPolicyConfig()
    return config.model_copy(update={"type": config.type or pattern.restart_policy or RECREATE})


def recreated(before: RestartState, config: RestartPolicyConfig, now: datetime) -> tuple[RestartState, timedelta]:
    """Return what is remembered of an instance that is recreated because of a restart, and how long that must wait."""
    count, at = before.recreations, before.recreated_at
    if at is not None:
        at = min(at, now)  # written by a clock that was ahead, or by another client
    longest = timedelta(seconds=config.max_delay_seconds)
    if at is None or now - at > max(2 * longest, _FORGET_AFTER):
        count = 0
    # In seconds: a timedelta has an end that long delays, doubled often, would pass.
    seconds = exponential(config.base_delay_seconds, config.max_delay_seconds, count) if count else None
    wait = timedelta(0) if seconds is None or at is None else max(timedelta(0), at + timedelta(seconds=seconds) - now)
    return RestartState(recreations=count + 1, recreated_at=now), wait

"""When a Lease may be taken, and what is written into it. Pure; used by `leader_election`.

As in client-go, no clocks are compared: a Lease has run out when a replica has seen the very same record for as
long as the record itself says, on the replica's own monotonic clock. The times in the record are for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

DURATION = 10.0
"""Seconds that a Lease lasts after its holder was last heard of."""
RENEW_DEADLINE = 7.0
"""Seconds without a renewal after which the holder stops acting: before anybody else may start."""
RENEW_EVERY = 2.0
LOOK_EVERY = 1.0
"""Seconds between two looks of a standby: what it costs a successor to notice a release."""


@dataclass(frozen=True)
class Record:
    """What a Lease says. `holder` is empty when it was released."""

    holder: str
    duration: float
    renewed: str
    transitions: int
    acquired: str


@dataclass(frozen=True)
class ObservedRecord:
    """A record, and since when this replica has known it (seconds, monotonic)."""

    record: Record
    since: float


def record(spec: Mapping[str, Any]) -> Record:
    """Read a Lease's spec; every field of it may be missing."""
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration=float(spec.get("leaseDurationSeconds") or DURATION),
        renewed=spec.get("renewTime") or "",
        transitions=int(spec.get("leaseTransitions") or 0),
        acquired=spec.get("acquireTime") or "",
    )


def see(before: ObservedRecord | None, now_there: Record, now: float) -> ObservedRecord:
    """Return what is known after a look: an unchanged record keeps the time since which it is known."""
    return before if before is not None and before.record == now_there else ObservedRecord(now_there, now)


def free_in(seen: ObservedRecord, identity: str, now: float) -> float:
    """Return the seconds until this replica may take the Lease; 0 when it may now.

    Its own is always free: identities are names of pods, and of a pod only one process runs at a time.
    """
    if seen.record.holder in ("", identity):
        return 0.0
    return max(0.0, seen.since + seen.record.duration - now)


def held(before: Record | None, identity: str, now: datetime) -> dict[str, Any]:
    """Return the spec by which this replica takes the Lease, or renews it."""
    is_holder = before is not None and before.holder == identity
    moment = _micro_time(now)
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": int(DURATION),
        "acquireTime": before.acquired if before is not None and is_holder and before.acquired else moment,
        "renewTime": moment,
        "leaseTransitions": 0 if before is None else before.transitions + (0 if is_holder else 1),
    }


def released(now: datetime) -> dict[str, Any]:
    """Return the spec by which the holder gives the Lease up: the next look of a standby finds it free."""
    return {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time(now)}


def _micro_time(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""Leases: which workers a router should have, and until when without another word from their pods. Pure.

`server` holds one `Leases` value and gives it the time. A lease that was read from the file after a restart is
restored without its worker, which is left as it is until its pod speaks or the lease runs out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from patio.topology.registered_worker import Worker


@dataclass(frozen=True, slots=True)
class Lease:
    """One pod's worker, for a time."""

    id: str
    url: str
    seconds: float
    expires: float
    """On the caller's clock."""
    worker: Worker | None = None
    """None: only known from before a restart, and keys are in no file."""


@dataclass(frozen=True, slots=True)
class Leases:
    """All leases, by id."""

    by_id: Mapping[str, Lease] = field(default_factory=dict)

    @property
    def desired(self) -> dict[str, Worker]:
        """The workers to keep registered, by URL."""
        return {lease.url: lease.worker for lease in self.by_id.values() if lease.worker is not None}

    @property
    def held(self) -> frozenset[str]:
        """URLs of workers that are to be left as they are."""
        return frozenset(lease.url for lease in self.by_id.values() if lease.worker is None)

    @property
    def next_end(self) -> float | None:
        """When the first one runs out."""
        return min((lease.expires for lease in self.by_id.values()), default=None)


def granted(leases: Leases, lease_id: str, worker: Worker, seconds: float, now: float) -> Leases:
    """Return the leases with one begun or renewed.

    An address belongs to who spoke last: pods come and go, and their addresses are given out again.
    """
    others = {key: lease for key, lease in leases.by_id.items() if key != lease_id and lease.url != worker.url}
    return Leases({**others, lease_id: Lease(lease_id, worker.url, seconds, now + seconds, worker)})


def dropped(leases: Leases, lease_id: str) -> Leases:
    """Return the leases without one."""
    return Leases({key: lease for key, lease in leases.by_id.items() if key != lease_id})


def expired(leases: Leases, now: float) -> tuple[Leases, tuple[Lease, ...]]:
    """Return the leases that still run, and those that do not."""
    ended = tuple(lease for lease in leases.by_id.values() if lease.expires <= now)
    return (leases, ()) if not ended else (Leases({k: v for k, v in leases.by_id.items() if v not in ended}), ended)


def extended(leases: Leases, seconds: float) -> Leases:
    """Return the leases with their ends put off: for time that the server slept through, and pods could not be heard
    in."""
    return Leases({key: replace(lease, expires=lease.expires + seconds) for key, lease in leases.by_id.items()})


def restored(saved: Mapping[str, tuple[str, float]], now: float) -> Leases:
    """Return leases as known from before a restart (URL and seconds by id): all of them begin again."""
    return Leases({key: Lease(key, url, seconds, now + seconds) for key, (url, seconds) in saved.items()})


def to_save(leases: Leases) -> dict[str, tuple[str, float]]:
    """Return what is worth keeping over a restart: URL and seconds by id, no key."""
    return {lease.id: (lease.url, lease.seconds) for lease in leases.by_id.values()}

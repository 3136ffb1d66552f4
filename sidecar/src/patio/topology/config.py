"""What a sidecar is told about its place in the topology: its role, the router, the worker that it stands for.

Pure values, made by `settings.topology` and read by `client` and `server`. Keys are in no repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Role(StrEnum):
    """On which side of the topology a sidecar stands."""

    CLIENT = "client"
    """Beside an engine: keeps it registered."""
    SERVER = "server"
    """Beside a router, and beside no engine: keeps leases, and the router's list in step with them."""


class Kind(StrEnum):
    """What a worker does, in the routers' words (`worker_type`)."""

    REGULAR = "regular"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Worker:
    """An engine, as a router is told of it."""

    url: str
    """Where the router reaches it, without a slash at the end: sglang-router and smg take `.../` for another worker."""
    kind: Kind = Kind.REGULAR
    bootstrap_port: int | None = None
    """Of a prefill worker: where decode workers fetch the KV cache."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Other fields of the router's `POST /workers`, as given in `--instance-info`."""
    api_key: str | None = field(default=None, repr=False)
    """What the engine wants to see from the router."""

    def order(self) -> dict[str, object]:
        """Return the body of `POST /workers`."""
        body: dict[str, object] = {**self.extra, "url": self.url, "worker_type": self.kind.value}
        if self.bootstrap_port is not None:
            body["bootstrap_port"] = self.bootstrap_port
        if self.api_key is not None:
            body["api_key"] = self.api_key
        return body


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One router, or one sidecar beside a router."""

    urls: tuple[str, ...]
    """Base URLs that it may answer at, best first: upstream named its Services in two ways."""
    may_be_server: bool = False
    """It is asked whether it is a sidecar with leases."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.urls[0]


@dataclass(frozen=True, slots=True)
class TopologySettings:
    """What a sidecar does about routers; nothing, unless `enabled`."""

    enabled: bool = False
    not_configured: str = ""
    """A topology is asked for and nothing names a router: what to set. Not `enabled` then."""
    role: Role = Role.CLIENT
    endpoints: tuple[Endpoint, ...] = ()
    """Client: where to register. Server: the router beside it, one."""
    worker: Worker | None = None
    """Client: what to register."""
    lease_id: str = ""
    """Client: under which name it leases, the pod's."""
    heartbeat: float = 30.0
    """Seconds."""
    router_key: str | None = field(default=None, repr=False)
    lease_file: Path | None = None
    """Server: where leases outlive the sidecar."""

    @property
    def is_server(self) -> bool:
        """Whether this sidecar stands beside a router instead of an engine."""
        return self.enabled and self.role is Role.SERVER

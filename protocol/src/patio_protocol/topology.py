"""Models of the topology and drain routes, shared by the routes, `client` and the sidecars that call each other.

Pure data, like `adapters`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

LEASES_PATH = "/v1/topology/leases/"
"""What stands below is guarded by the router's key, not by the operator's: other pods' sidecars call it."""


class RegistrationState(StrEnum):
    """How a worker stands with a router."""

    PENDING = "Pending"
    """It should be registered and is not yet, or not just now."""
    REGISTERED = "Registered"
    """Read back from the router's own list, in the right kind, healthy."""
    FAILED = "Failed"
    """Refused for good, or tried in vain for a while; retried in long pauses."""
    LEAVING = "Leaving"
    """It should not be registered, and the router has not forgotten it yet."""
    NOT_REGISTERED = "NotRegistered"
    """It should not be registered, and is not."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


LeaseId = Annotated[str, StringConstraints(min_length=1, max_length=320, pattern=r"^[A-Za-z0-9._-]+$")]
"""Who leases: the pod, as `name.namespace`."""


class LeaseRequest(_Model):
    """`PUT /v1/topology/leases/{id}`: keep this worker registered for so long, beginning now."""

    url: str = Field(max_length=2048, pattern=r"^https?://[^\s/@?#]+$", description="The worker's base URL.")
    worker_type: str = Field(default="regular", pattern="^(regular|prefill|decode)$")
    bootstrap_port: int | None = Field(default=None, gt=0, lt=65536)
    api_key: str | None = Field(default=None, max_length=4096, repr=False, description="What the engine wants to see.")
    extra: dict[str, JsonValue] = Field(default_factory=dict, description="Further fields of the router's own.")
    seconds: float = Field(gt=0, le=3600, description="How long the worker stays without another word.")


class Registration(_Answer):
    """One worker at one router."""

    router: str = Field(description="Base URL of the router, or of the sidecar beside it that registers for us.")
    worker_url: str
    worker_type: str = "regular"
    worker_id: str | None = Field(default=None, description="The router's name for it.")
    state: RegistrationState
    reason: str = Field(description="CamelCase and stable: why it is in this state.")
    message: str = Field(default="", description="A sentence; for faults, the router's own words.")
    since: float = Field(description="Unix seconds of the last change of state.")
    verified: float | None = Field(
        default=None, description="Unix seconds of the last look at the router that got an answer about it."
    )


class LeaseReport(_Answer):
    """One lease, and what became of it."""

    id: str
    expires_in: float = Field(description="Seconds from now.")
    registration: Registration


class TopologyReport(_Answer):
    """`GET /v1/topology`: the registrations, as read back from the routers."""

    role: str | None = Field(default=None, description="`client` or `server`; absent when there is no topology.")
    registered: bool = Field(
        default=False, description="Client: at every router. Server: every leased worker, and the router answers."
    )
    registrations: tuple[Registration, ...] = Field(default=(), description="Client: one a router.")
    leases: tuple[LeaseReport, ...] = Field(default=(), description="Server: one a worker.")
    reason: str = Field(default="", description="`NotConfigured`: a topology is asked for and nothing names a router.")
    message: str = Field(default="", description="What to do about that, in words.")


class DrainRequest(_Model):
    """`POST /v1/drain`."""

    timeout: float | None = Field(
        default=None, ge=0, le=3600, description="Seconds after which the answer comes anyway; absent: the setting."
    )


class DrainAnswer(_Answer):
    """What a drain came to."""

    drained: bool = Field(description="No router sends requests, and the engine has had none for the settling time.")
    running: int | None = Field(description="Requests in execution at the last look; null when the engine tells not.")
    waiting: int | None = Field(description="Requests queued at the last look; null when the engine tells not.")
    unregistered: bool = Field(description="No router sends requests to this pod any more, as far as they say.")
    waited_seconds: float
    message: str = ""

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
    """State of a worker at a router."""

    PENDING = "Pending"
    """It should be registered, and is not registered at the moment."""
    REGISTERED = "Registered"
    """Read back from the router's own list, in the right kind, healthy."""
    FAILED = "Failed"
    """Rejected permanently, or failed for a while; retried after long pauses."""
    LEAVING = "Leaving"
    """It should not be registered, and the router has not removed it yet."""
    NOT_REGISTERED = "NotRegistered"
    """It should not be registered, and is not."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


LeaseId = Annotated[str, StringConstraints(min_length=1, max_length=320, pattern=r"^[A-Za-z0-9._-]+$")]
"""Who leases: the pod, as `name.namespace`."""


class LeaseRequest(_Model):
    """`PUT /v1/topology/leases/{id}`: keep this worker registered for `seconds` from now."""

    url: str = Field(max_length=2048, pattern=r"^https?://[^\s/@?#]+$", description="The worker's base URL.")
    worker_type: str = Field(default="regular", pattern="^(regular|prefill|decode)$")
    bootstrap_port: int | None = Field(default=None, gt=0, lt=65536)
    api_key: str | None = Field(default=None, max_length=4096, repr=False, description="The API key of the engine.")
    extra: dict[str, JsonValue] = Field(default_factory=dict, description="Further fields for the router.")
    seconds: float = Field(gt=0, le=3600, description="Seconds until the lease expires unless it is renewed.")


class Registration(_Answer):
    """One worker at one router."""

    router: str = Field(
        description="Base URL of the router, or of the sidecar beside the router that registers the worker."
    )
    worker_url: str
    worker_type: str = "regular"
    worker_id: str | None = Field(default=None, description="The router's id of the worker.")
    state: RegistrationState
    reason: str = Field(description="Reason of the state: CamelCase and stable.")
    message: str = Field(default="", description="A sentence; of an error, the router's message.")
    since: float = Field(description="Unix seconds of the last change of state.")
    verified: float | None = Field(
        default=None, description="Unix seconds of the router's last answer about the worker."
    )


class LeaseReport(_Answer):
    """One lease, and its registration."""

    id: str
    expires_in: float = Field(description="Seconds until the lease expires.")
    registration: Registration


class TopologyReport(_Answer):
    """`GET /v1/topology`: the registrations, as read back from the routers."""

    role: str | None = Field(default=None, description="`client` or `server`; absent without a topology.")
    registered: bool = Field(
        default=False,
        description="Client: registered at every router. Server: every leased worker is registered, and the "
        "router answers.",
    )
    registrations: tuple[Registration, ...] = Field(default=(), description="Client: one for each router.")
    leases: tuple[LeaseReport, ...] = Field(default=(), description="Server: one for each worker.")
    reason: str = Field(default="", description="`NotConfigured`: a topology is set, but no router.")
    message: str = Field(default="", description="What to do about the reason.")


class DrainRequest(_Model):
    """`POST /v1/drain`."""

    timeout: float | None = Field(
        default=None, ge=0, le=3600, description="Seconds to wait at most. Default: the sidecar's setting."
    )


class DrainAnswer(_Answer):
    """The outcome of a drain."""

    drained: bool = Field(
        description="Whether no router sends requests, and the engine has had none for the settling time."
    )
    running: int | None = Field(
        description="Running requests at the last poll; null when the engine does not report them."
    )
    waiting: int | None = Field(
        description="Queued requests at the last poll; null when the engine does not report them."
    )
    unregistered: bool = Field(description="Whether every router reports that it does not send requests to this pod.")
    waited_seconds: float
    message: str = ""

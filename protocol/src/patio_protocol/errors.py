"""Errors between a caller and a sidecar, by what the caller does next: what `client` raises.

`Unreachable`: no sidecar answered; try again. `Refused`: the sidecar answered with an error that says whether a retry
can help.
"""

from __future__ import annotations


class SidecarError(Exception):
    """Base of everything `SidecarClient` raises."""


class Unreachable(SidecarError):  # noqa: N818 - a state of the world, and the word callers use for it
    """No answer: refused, reset, timed out. Nothing is known about what the sidecar did."""


class Refused(SidecarError):  # noqa: N818 - the sidecar's verdict, and the word callers use for it
    """The sidecar answered with an error."""

    def __init__(self, code: str, message: str, retryable: bool, status: int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        """CamelCase and stable, e.g. `EngineRejected`, `Conflict`, `NotFound`."""
        self.message = message
        """A sentence; for faults of the engine, its own words."""
        self.retryable = retryable
        self.status = status
        """The HTTP status of the answer."""

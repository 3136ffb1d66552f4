"""Errors between a caller and a sidecar, by what the caller does next: what `client` raises.

`UnreachableError`: no sidecar answered; try again. `RejectedError`: the sidecar answered with an error, which says
whether a retry can help.
"""

from __future__ import annotations


class SidecarError(Exception):
    """Base of everything `SidecarClient` raises."""


class UnreachableError(SidecarError):
    """No answer: connection refused or reset, or a timeout. What the sidecar did is unknown."""


class RejectedError(SidecarError):
    """The sidecar answered with an error."""

    def __init__(self, code: str, message: str, retryable: bool, status: int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        """CamelCase and stable, e.g. `EngineRejected`, `Conflict`, `NotFound`."""
        self.message = message
        """A sentence; of an error of the engine, the engine's message."""
        self.retryable = retryable
        self.status = status
        """The HTTP status of the answer."""

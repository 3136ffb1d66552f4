"""How long a drain may take, and how quiet the engine must be. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TIMEOUT = 25.0
DEFAULT_SETTLE = 2.0


@dataclass(frozen=True, slots=True)
class DrainSettings:
    """Seconds."""

    timeout: float = DEFAULT_TIMEOUT
    """After which the answer comes anyway: less than the pod's grace period, 30 s unless it says otherwise."""
    settle: float = DEFAULT_SETTLE
    """How long the engine must have been without a request: proxies and routers take a moment to hear that the pod
    goes."""

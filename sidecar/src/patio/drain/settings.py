"""How long a drain may take, and how quiet the engine must be: the settings, and the variables that they are read from.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from patio.variables import SettingsError

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


VARIABLES = {
    "PATIO_DRAIN_TIMEOUT": f"seconds that a drain may take if its caller sets no timeout; default {DEFAULT_TIMEOUT:g}",
    "PATIO_DRAIN_SETTLE": f"seconds without a request after which the engine is drained; default {DEFAULT_SETTLE:g}",
}


def read_drain(env: Mapping[str, str]) -> DrainSettings:
    """Return the settings; raise `SettingsError`."""
    timeout = _seconds("PATIO_DRAIN_TIMEOUT", env, DEFAULT_TIMEOUT)
    settle = _seconds("PATIO_DRAIN_SETTLE", env, min(DEFAULT_SETTLE, timeout))
    if settle > timeout:
        raise SettingsError(f"PATIO_DRAIN_SETTLE: {settle:g} is longer than PATIO_DRAIN_TIMEOUT, {timeout:g}")
    return DrainSettings(timeout, settle)


def _seconds(name: str, env: Mapping[str, str], default: float) -> float:
    value = env.get(name)
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise SettingsError(f"{name}: {value!r} is not a number of seconds up to 3600")
    return seconds

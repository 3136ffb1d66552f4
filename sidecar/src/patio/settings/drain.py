"""Variables of the drain."""

from __future__ import annotations

from collections.abc import Mapping

from patio.drain.config import DEFAULT_SETTLE, DEFAULT_TIMEOUT, DrainSettings
from patio.settings.errors import SettingsError

HONOURED = {
    "PATIO_DRAIN_TIMEOUT": f"seconds that a drain may take when its caller does not say; default {DEFAULT_TIMEOUT:g}",
    "PATIO_DRAIN_SETTLE": f"seconds without a request after which the engine is drained; default {DEFAULT_SETTLE:g}",
}


def drain_settings(given: Mapping[str, str]) -> DrainSettings:
    """Return the settings; raise `SettingsError`."""
    timeout = _seconds("PATIO_DRAIN_TIMEOUT", given, DEFAULT_TIMEOUT)
    settle = _seconds("PATIO_DRAIN_SETTLE", given, min(DEFAULT_SETTLE, timeout))
    if settle > timeout:
        raise SettingsError(f"PATIO_DRAIN_SETTLE: {settle:g} is longer than PATIO_DRAIN_TIMEOUT, {timeout:g}")
    return DrainSettings(timeout, settle)


def _seconds(name: str, given: Mapping[str, str], default: float) -> float:
    value = given.get(name)
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise SettingsError(f"{name}: {value!r} is not a number of seconds up to 3600")
    return seconds

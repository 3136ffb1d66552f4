"""What all readers of settings share: the error for a setting that is wrong, and names that mean the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping


class SettingsError(Exception):
    """The sidecar cannot start like this; the message names the setting and the remedy."""


def single_value(env: Mapping[str, str], *names: str) -> tuple[str, str] | None:
    """Return the first of some names that is set, with its value; they must not disagree. None: none of them is set."""
    values = [(name, env[name]) for name in names if name in env]
    if len({value for _, value in values}) > 1:
        both = " and ".join(f"{name}={value}" for name, value in values)
        raise SettingsError(f"{both} contradict each other: set one of them")
    return values[0] if values else None

"""Reads YAML that somebody else wrote: whatever PyYAML raises for it is one error. Callers bound its length. Pure."""

from __future__ import annotations

import yaml

_NOT_YAML = (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError)
"""What PyYAML 6.0 raises for text that it cannot read: `2024-13-01` (ValueError), `!!bool x` (KeyError), `!!timestamp
x` (AttributeError)."""


class NotYamlError(ValueError):
    """A text is not YAML."""


def read_yaml(data: bytes) -> object:
    """Return what a text has; raise `NotYamlError`."""
    try:
        return yaml.safe_load(data)
    except _NOT_YAML:
        raise NotYamlError from None

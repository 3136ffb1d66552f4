"""Facts of the engines that Patio serves, for the sidecar that calls them and the operator that reads their pods. Pure.

An engine kind names the dialect that an engine speaks: its flags, its routes, its default port.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class EngineKind(StrEnum):
    """The engines Patio speaks to."""

    VLLM = "vllm"
    SGLANG = "sglang"


DEFAULT_PORTS: Mapping[str, int] = {EngineKind.VLLM: 8000, EngineKind.SGLANG: 30000}
"""Ports that the engines listen on when no flag says otherwise."""

TRIAL_PREFIX = "patio-trial-"
"""How names begin under which the sidecar tries weights before it replaces others by them. No caller orders those."""

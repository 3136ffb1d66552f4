"""Why an engine, a router, a source, or this sidecar did not do what it was asked for. Pure.

A value, not an exception: what is raised at a border (`EngineError`, `RouterError`, `DownloadError`) becomes a
`Rejection` where it is kept or reported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refused order, or a failed attempt."""

    reason: str
    """CamelCase and stable."""
    message: str
    """A sentence with the cause and the remedy; where another process refused, in its words."""
    retryable: bool = True
    """Whether the same may succeed later without anyone changing anything."""

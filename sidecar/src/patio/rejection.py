"""Why an engine, a router, a source, or this sidecar rejected an order or failed at it. Pure.

A value, not an exception: what is raised at a border (`EngineError`, `RouterError`, `DownloadError`) becomes a
`Rejection` where it is kept or reported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejection:
    """A rejected order, or a failed attempt."""

    reason: str
    """CamelCase and stable."""
    message: str
    """A sentence with the cause and the remedy; if another process rejected the order, its own message."""
    retryable: bool = True
    """Whether a retry may succeed though nothing was changed."""

"""What a pod's status says to everybody: whether it is ready, and whether it goes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_ready(body: Mapping[str, Any]) -> bool:
    """Tell whether a pod's condition Ready is true: Services send it requests."""
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in (body.get("status") or {}).get("conditions") or []
    )


def is_leaving(body: Mapping[str, Any]) -> bool:
    """Tell whether a pod is being deleted, or has finished."""
    phase = (body.get("status") or {}).get("phase")
    return body["metadata"].get("deletionTimestamp") is not None or phase in ("Succeeded", "Failed")

"""Who controls an object, by its owner references. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def controller(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the owner reference of an object's controller, of which there is one at most; None if it has none."""
    return next((owner for owner in metadata.get("ownerReferences") or [] if owner.get("controller")), None)


def controller_uid(metadata: Mapping[str, Any]) -> str:
    """Return the UID of an object's controller; empty if it has none."""
    owner = controller(metadata)
    return "" if owner is None else str(owner["uid"])

"""An event as planners return it: what users read beside an object. `kube.events` records it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """Something that happened to an object, for its users."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str

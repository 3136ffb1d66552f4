"""Lengths of time as users write them: `10m`, `1h30m`, `90s`. Pure.

The pattern is in the CRD, so that `kubectl apply` refuses anything else; Kubernetes' own `duration()` in CEL reads the
same texts.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import Field

PATTERN = r"^([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$"
Duration = Annotated[str, Field(min_length=2, max_length=20, pattern=PATTERN)]


def length_of(text: str) -> timedelta:
    """Return the length of time that a text names; raise `ValueError` for one that names none."""
    found = re.fullmatch(PATTERN, text)
    if found is None or not text:
        raise ValueError(f"{text[:40]!r} is not a length of time like 10m, 1h30m or 90s")
    hours, minutes, seconds = (int((part or "0x")[:-1]) for part in found.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)

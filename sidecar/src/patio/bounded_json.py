"""Reads JSON that others wrote: bounded in size, and never anything but a value or a `ValueError`. Pure.

`json` alone raises RecursionError for a text of many brackets, which is no ValueError and ends the task that read it.
Used where an answer of an engine is no model of ours; pydantic, which has limits of its own, reads the others.
"""

from __future__ import annotations

import json
from typing import Any


def read_json(data: bytes | str, limit: int) -> Any:
    """Return the value of a JSON text of at most `limit` bytes (of a `str`: characters).

    Raises:
        ValueError: it is too long, too deep, or no JSON.

    """
    if len(data) > limit:
        raise ValueError(f"the text is longer than {limit}")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("the text is nested too deeply") from None

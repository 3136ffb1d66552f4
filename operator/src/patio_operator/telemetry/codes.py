"""Which text a status code has as a label. Pure.

Whoever has a pod's address decides what answers there, so a code is never a label as it is: the common ones are, and
each of the others is its class.
"""

from __future__ import annotations

NO_ANSWER = "none"
COMMON = (200, 201, 202, 204, 400, 401, 403, 404, 409, 410, 412, 413, 415, 422, 429, 500, 502, 503, 504)


def label(status: int) -> str:
    """Return the label of a status; 0 stands for no answer."""
    if status in COMMON:
        return str(status)
    return f"{status // 100}xx" if 100 <= status < 600 else NO_ANSWER

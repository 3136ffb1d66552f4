"""Which of several objects that claim one name in requests has it: the older one. Pure.

One gateway serves all namespaces, so a name is one object's. Operator and gateway decide by this order, so that
statuses and routing agree (decisions 0044 and 0053).
"""

from __future__ import annotations

from datetime import UTC, datetime

Precedence = tuple[datetime, str]
"""Smaller goes before."""
_NEVER = datetime.max.replace(tzinfo=UTC)


def precedence(created: datetime | None, key: str) -> Precedence:
    """Return the order of objects that claim one name: by creation, then by `namespace/name`.

    Args:
        created: metadata.creationTimestamp; an object that has none comes last.
        key: `namespace/name`.

    """
    return created or _NEVER, key

"""Kubernetes conditions (metav1.Condition) as dictionaries. Pure.

The one rule that is easily broken: `lastTransitionTime` moves when `status` does, and never otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""Of metav1.Time, in UTC."""


def time_of(text: str) -> datetime:
    """Read a time as the API server writes it (metav1.Time); UTC."""
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)


def next_condition(
    before: Sequence[Mapping[str, Any]],
    type_: str,
    status: str,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> dict[str, Any]:
    """Return a condition, with the time of its last change of status taken from `before` if it did not change.

    Args:
        before: the conditions that are there.
        type_: CamelCase, e.g. `Ready`.
        status: "True", "False" or "Unknown".
        reason: CamelCase and stable.
        message: a sentence for people.
        generation: the `metadata.generation` this was judged from.
        now: the time of the change, if it is one; UTC.

    """
    previous = next((condition for condition in before if condition["type"] == type_), None)
    changed = previous is None or previous["status"] != status
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": now.strftime(TIME_FORMAT)
        if changed or previous is None
        else previous["lastTransitionTime"],
    }


def find(status: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """Return a status's condition of a type, empty when it has none."""
    return next((condition for condition in status.get("conditions") or [] if condition["type"] == type_), {})

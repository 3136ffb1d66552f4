"""Alerts as values: the expression, its thresholds, the words of the notification and the runbook.

Expressions are text, since people read them while an alert fires. A threshold stands in them as `${name}`, and is a
value of the chart. `rules` writes rules from these values, and `pages` the runbooks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning"]
PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Threshold:
    """A number in expressions that users may change."""

    name: str
    default: float
    meaning: str
    allowed: tuple[float, ...] = ()
    """The only possible values, if it chooses a bucket of a histogram."""


@dataclass(frozen=True)
class Look:
    """One step of finding the cause: a command, and what its answer means."""

    command: str
    means: str


@dataclass(frozen=True)
class Runbook:
    """What a person does who is woken by the alert."""

    means: str
    users: str
    """What users of the model notice."""
    look: tuple[Look, ...]
    """The first command shows the cause in most cases."""
    fix: tuple[str, ...]
    quiet: str = ""
    """When it fires although nothing is wrong, and what to do then."""


@dataclass(frozen=True)
class Alert:
    """One alert."""

    name: str
    severity: Severity
    wait: str
    """For how long the expression must be true."""
    expr: str
    summary: str
    description: str
    dashboard: str
    """UID of the dashboard that shows it."""
    labels: tuple[str, ...]
    """Labels of the alert by which the dashboard is filtered."""
    runbook: Runbook

    @property
    def thresholds(self) -> tuple[str, ...]:
        """Names of the thresholds, in the expression or in the words."""
        return tuple(dict.fromkeys(PLACEHOLDER.findall(f"{self.expr} {self.description}")))


@dataclass(frozen=True)
class Group:
    """Alerts that are evaluated together and have one page of runbooks."""

    name: str
    title: str
    alerts: tuple[Alert, ...]


def fill(text: str, values: Mapping[str, float]) -> str:
    """Return a text with the thresholds in it."""
    return PLACEHOLDER.sub(lambda found: f"{values[found[1]]:g}", text)

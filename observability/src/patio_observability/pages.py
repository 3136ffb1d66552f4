"""Writes the pages of the documentation about alerts: the table of all of them, and the runbooks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from patio_observability.alerts import ALERTS, DEFAULTS, GROUPS, THRESHOLDS
from patio_observability.alerts.model import Alert, Group, fill
from patio_observability.rules import anchor

REMARK = "<!-- Written by `make dashboards`. Do not edit. -->"

ALERTS_INTRODUCTION = """\
These are the alerts of the chart. A critical one means that users are hurt, or will be soon: it should wake a person. A
warning can wait until the morning. [Monitor](../tasks/monitor.md) says how to turn the rules on, and how to change
thresholds. Without Prometheus Operator, take `charts/patio/rules/patio.rules.yaml`. No alert needs kube-state-metrics.
"""

RUNBOOKS_INTRODUCTION = """\
One section for each alert: what it means, what users notice, how to find the cause, and how to fix it. The first
command shows the cause in most cases. In the commands, `NAMESPACE`, `POD` and `ADAPTER` are labels of the alert,
`ENGINE` is the name of the engine's container, and `patio-system` is the operator's namespace.
"""

INDEX = """\
The annotation `runbook_url` of an alert leads to its section here. [All alerts](../reference/alerts.md) has the
expressions and thresholds.
"""


def alerts() -> str:
    """Return the page of all alerts."""
    parts = [REMARK, "# All alerts", ALERTS_INTRODUCTION.strip()]
    for group in GROUPS:
        rows = [
            (
                f"[{alert.name}](../runbooks/{group.name}.md#{anchor(alert)})",
                alert.severity,
                alert.wait,
                alert.summary,
                ", ".join(f"`{name}`" for name in alert.thresholds),
            )
            for alert in group.alerts
        ]
        parts += [f"## {group.title}", _table(("alert", "severity", "for", "meaning", "thresholds"), rows)]
    thresholds = [
        (
            f"`{threshold.name}`",
            f"`{threshold.default:g}`",
            threshold.meaning
            + (f" One of {', '.join(f'{value:g}' for value in threshold.allowed)}." if threshold.allowed else ""),
            ", ".join(alert.name for alert in ALERTS if threshold.name in alert.thresholds),
        )
        for threshold in THRESHOLDS
    ]
    parts += [
        "## Thresholds",
        "They are values of the chart, below `monitoring.rules.thresholds`.",
        _table(("threshold", "default", "meaning", "alerts"), thresholds),
        "## Expressions",
        "With the default thresholds:",
    ]
    parts += [f"### {alert.name}\n\n```promql\n{fill(alert.expr, DEFAULTS)}\n```" for alert in ALERTS]
    return "\n\n".join(parts) + "\n"


def runbooks() -> dict[str, str]:
    """Return the pages of runbooks, by file name."""
    return {"index.md": _index(), **{f"{group.name}.md": _runbooks(group) for group in GROUPS}}


def _index() -> str:
    rows = [
        (f"[{alert.name}]({group.name}.md#{anchor(alert)})", alert.severity, alert.summary)
        for group in GROUPS
        for alert in group.alerts
    ]
    return "\n\n".join([REMARK, "# Runbooks", INDEX.strip(), _table(("alert", "severity", "meaning"), rows)]) + "\n"


def _runbooks(group: Group) -> str:
    sections = [_section(alert) for alert in group.alerts]
    title = f"# Runbooks: {group.title[0].lower()}{group.title[1:]}"
    return "\n\n".join([REMARK, title, RUNBOOKS_INTRODUCTION.strip(), *sections]) + "\n"


def _section(alert: Alert) -> str:
    book = alert.runbook
    parts = [
        f"## {alert.name}",
        _prose(f"{alert.summary}. *{alert.severity.capitalize()}, after {alert.wait}.*"),
        _prose(f"**What it means.** {book.means}"),
        _prose(f"**What users notice.** {book.users}"),
        "**How to find the cause.**",
    ]
    for look in book.look:
        parts += [f"```sh\n{_command(look.command)}\n```", _prose(look.means)]
    parts += ["**How to fix it.**", "\n".join(_prose(f"- {step}", "  ") for step in book.fix)]
    if book.quiet:
        parts.append(_prose(f"**When it fires without a problem.** {book.quiet}"))
    return "\n\n".join(parts)


def _command(command: str) -> str:
    """Return a command, with what makes the sidecar's port reachable if it needs that."""
    if "localhost:9091" not in command:
        return command
    return f"kubectl port-forward -n NAMESPACE POD 9091 & sleep 2\n{command}\nkill %1"


def _prose(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])

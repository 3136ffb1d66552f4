"""Writes the alerts as rules: a plain file for Prometheus, and the data that the chart makes a PrometheusRule of.

Both have the same text. In the chart's data thresholds and addresses are placeholders (`${name}`), which its template
replaces by values; in the plain file they are the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from patio_observability.alerts import DEFAULTS, GROUPS
from patio_observability.alerts.model import Alert, Group, fill

RUNBOOK_URL = "docs/runbooks/{page}.md#{alert}"
"""Where a runbook is, unless the chart's values say otherwise: its path in the repository."""
REMARK = "# Written by `make dashboards`. Do not edit.\n"


def plain() -> str:
    """Return a rules file for Prometheus, with the default thresholds."""
    return REMARK + _dump({"groups": [_group(group, runbook_url=None) for group in GROUPS]}, DEFAULTS)


def chart_data() -> str:
    """Return what the chart's template reads, with placeholders."""
    return REMARK + _dump({"groups": [_group(group, runbook_url="${runbookUrl}") for group in GROUPS]}, None)


def _group(group: Group, runbook_url: str | None) -> dict[str, Any]:
    rules = [_rule(group, alert, runbook_url) for alert in group.alerts]
    page = {} if runbook_url is None else {"page": group.name}
    return {"name": f"patio-{group.name}", **page, "rules": rules}


def _rule(group: Group, alert: Alert, runbook_url: str | None) -> dict[str, Any]:
    base = "${dashboardUrl}" if runbook_url is not None else ""
    where = runbook_url or RUNBOOK_URL.format(page=group.name, alert=anchor(alert))
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.wait,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "dashboard_url": f"{base}{dashboard_path(alert)}",
            "runbook_url": where,
        },
    }


def anchor(alert: Alert) -> str:
    """Return the anchor of an alert on its page of runbooks."""
    return alert.name.lower()


def dashboard_path(alert: Alert) -> str:
    """Return the path of the dashboard that shows an alert, with the alert's labels as variables.

    The name of a model may have any character.
    """
    chosen = "&".join(f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in alert.labels)
    return f"/d/{alert.dashboard}{'?' if chosen else ''}{chosen}"


def _dump(document: Mapping[str, Any], thresholds: Mapping[str, float] | None) -> str:
    return yaml.dump(_filled(document, thresholds), Dumper=_Dumper, sort_keys=False, width=2**20, allow_unicode=True)


def _filled(value: Any, thresholds: Mapping[str, float] | None) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(item, thresholds) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, thresholds) for item in value]
    return fill(value, thresholds) if thresholds is not None else value


class _Dumper(yaml.SafeDumper):
    """Writes expressions of several lines as blocks."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)

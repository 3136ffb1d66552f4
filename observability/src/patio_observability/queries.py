"""Every query of every panel and alert, with variables replaced, so that a program can run all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from patio_observability.alerts import ALERTS, DEFAULTS
from patio_observability.alerts.model import fill
from patio_observability.dashboards import DASHBOARDS
from patio_observability.model import CustomVariable, Dashboard

WINDOWS = {"__rate_interval": "5m", "__range": "1h", "__interval": "1m"}


def values_of(dashboard: Dashboard) -> dict[str, str]:
    """Return what the variables are at first: all, or the default of a choice."""
    return {
        variable.name: variable.default if isinstance(variable, CustomVariable) else ".*"
        for variable in dashboard.variables
    }


def substituted(expr: str, values: Mapping[str, str]) -> str:
    """Return an expression with its variables replaced.

    Raises:
        KeyError: the expression has a variable that is not among the values.

    """
    return re.sub(r"\$\{?(\w+)\}?", lambda found: {**WINDOWS, **values}[found[1]], expr)


def all_queries() -> Iterator[dict[str, str]]:
    """Yield every query: where it is, and its expression."""
    for dashboard in DASHBOARDS:
        values = values_of(dashboard)
        for panel in dashboard.panels:
            for query in panel.queries:
                expr = substituted(query.expr, values)
                yield {"dashboard": dashboard.uid, "panel": panel.title, "query": query.legend, "expr": expr}
    for alert in ALERTS:
        yield {"alert": alert.name, "expr": fill(alert.expr, DEFAULTS)}

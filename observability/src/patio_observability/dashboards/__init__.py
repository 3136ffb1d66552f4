"""The four dashboards, and the panels that wait for metrics that do not exist yet.

Each module makes one `Dashboard`. A panel that needs a metric of `WAITING` moves from there into its module when the
products have the metric.
"""

from patio_observability.dashboards.adapters import ADAPTERS
from patio_observability.dashboards.engine import ENGINE
from patio_observability.dashboards.fleet import FLEET
from patio_observability.dashboards.operator import OPERATOR
from patio_observability.dashboards.waiting import WAITING

DASHBOARDS = (FLEET, ENGINE, ADAPTERS, OPERATOR)

__all__ = ["ADAPTERS", "DASHBOARDS", "ENGINE", "FLEET", "OPERATOR", "WAITING"]

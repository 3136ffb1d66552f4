"""The four dashboards. Each module makes one `Dashboard`."""

from patio_observability.dashboards.adapters import ADAPTERS
from patio_observability.dashboards.engine import ENGINE
from patio_observability.dashboards.fleet import FLEET
from patio_observability.dashboards.operator import OPERATOR

DASHBOARDS = (FLEET, ENGINE, ADAPTERS, OPERATOR)

__all__ = ["ADAPTERS", "DASHBOARDS", "ENGINE", "FLEET", "OPERATOR"]

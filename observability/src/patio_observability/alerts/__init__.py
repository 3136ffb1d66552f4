"""All alerts, in groups: engines, adapters, operator."""

from patio_observability.alerts.adapters import ADAPTERS
from patio_observability.alerts.engines import ENGINES
from patio_observability.alerts.operator import OPERATOR
from patio_observability.alerts.thresholds import DEFAULTS, THRESHOLDS

GROUPS = (ENGINES, ADAPTERS, OPERATOR)
ALERTS = tuple(alert for group in GROUPS for alert in group.alerts)

__all__ = ["ALERTS", "DEFAULTS", "GROUPS", "THRESHOLDS"]

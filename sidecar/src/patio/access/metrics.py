"""Metrics of access control, and a warning that repeats while it is off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

log = logging.getLogger(__name__)

REMIND_SECONDS = 3600.0
OFF = (
    "access control is off: everyone who reaches this port can load, unload, download and drain. "
    "Remove --access-control and PATIO_ACCESS_CONTROL to turn it on"
)


class AccessMetrics:
    """The families of access control."""

    def __init__(self, registry: CollectorRegistry, enforced: bool) -> None:
        Gauge(
            "patio:access_control_enforced",
            "1 if calls from outside the pod that change something need the operator's signature.",
            registry=registry,
        ).set(float(enforced))
        self._rejections = Counter(
            "patio:access_denials_total", "Rejected calls from outside the pod.", ("code",), registry=registry
        )

    def count_rejection(self, code: str) -> None:
        """Count one rejected call."""
        self._rejections.labels(code).inc()


async def warn_while_off(sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Warn now and every hour, until cancelled."""
    while True:
        log.warning("%s", OFF)
        await sleep(REMIND_SECONDS)

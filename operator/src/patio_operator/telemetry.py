"""What the operator tells of itself: JSON logs, Prometheus metrics, /healthz and /readyz."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(level: str) -> None:
    """Log to standard error as JSON, our loggers at `level`, libraries at WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("patio_operator").setLevel(level)


class Telemetry:
    """The operator's metrics, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.admissions = Counter(
            "patio_operator_admissions_total", "Pods reviewed, by outcome.", ["outcome"], registry=self.registry
        )
        self.validations = Counter(
            "patio_operator_reviews_total",
            "Profiles and LoraAdapters checked before they are stored, RoleBasedGroups converted, by kind and outcome.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.admission_seconds = Histogram(
            "patio_operator_admission_duration_seconds",
            "Time to answer one admission.",
            buckets=(0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 1.0, 5.0),
            registry=self.registry,
        )
        self.passes = Counter(
            "patio_operator_reconciles_total",
            "Passes of a reconciler, by kind and outcome.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.pass_seconds = Histogram(
            "patio_operator_reconcile_duration_seconds",
            "Time of one pass of a reconciler.",
            ["kind"],
            registry=self.registry,
        )
        self.leader = Gauge(
            "patio_operator_leader", "1 in the replica that reconciles, 0 in the others.", registry=self.registry
        )
        self.observing = Gauge(
            "patio_operator_observing_groups",
            "1 while RoleBasedGroups are left to upstream's controller, 0 while this operator realises them.",
            registry=self.registry,
        )


def health_application(telemetry: Telemetry, ready: Callable[[], bool]) -> web.Application:
    """Return the application with /healthz, /readyz and /metrics."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if ready() else web.Response(text="starting", status=503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(telemetry.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app

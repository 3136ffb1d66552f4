"""What the sidecar measures of itself and of its scrapes, in the registry that is passed in.

Each feature has such a module for its own metrics (`adapters.metrics`, `downloads.metrics`, `topology.metrics`,
`access.metrics`), all for one registry; `text` writes that registry out, behind the engine's metrics. Nothing here
reads the engine, and no process metrics are registered: engines bring their own under the same names.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from patio.metrics.rewrite import Format
from patio.written_metrics import Families, Tally, Written

SCRAPE_ERRORS = ("connection", "timeout", "broken", "status", "garbage", "too_large", "busy")
"""Every reason of a scrape that failed."""


class SelfMetrics:
    """What the sidecar measures of itself."""

    def __init__(self, registry: CollectorRegistry, version: str, engine: str, engine_version: str) -> None:
        self._registry = registry
        self.engine_up = Gauge(
            "patio:engine_up",
            "1 if this scrape read the engine's metrics; without scraping, 1 if the engine is ready.",
            registry=registry,
        )
        self.scrape_duration = Gauge(
            "patio:scrape_duration_seconds",
            "Seconds that the last scrape of the engine took, including rewriting.",
            registry=registry,
        )
        self.scrape_errors = Tally(
            "patio:engine_scrape_errors_total",
            "Scrapes of the engine that failed.",
            ("reason",),
            registry,
            initial=((reason,) for reason in SCRAPE_ERRORS),
        )
        Gauge(
            "patio:build_info",
            "Always 1; the labels name the versions.",
            ("version", "inference_engine", "inference_engine_version"),
            registry=registry,
        ).labels(version, engine, engine_version).set(1)

    def text(self, form: Format = Format.TEXT) -> bytes:
        """Return the text of all metrics in the registry."""
        if form is Format.TEXT:
            families = [*self._registry.collect()]
            ready = [family.text for family in families if isinstance(family, Written)]
            others = [family for family in families if not isinstance(family, Written)]
            return b"".join((generate_latest(Families(others)), *ready))
        # By default prometheus-client 0.26 makes underscores of the colons, in samples only. It has no types there.
        written: bytes = openmetrics(self._registry, escaping="allow-utf-8")  # type: ignore[no-untyped-call]
        return written

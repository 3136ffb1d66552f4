"""What downloads measure of themselves, in the sidecar's registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram


class DownloadMetrics:
    """Counters of downloads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._bytes = Counter("patio:download_bytes_total", "Bytes read from sources.", ("source",), registry=registry)
        self._seconds = Histogram(
            "patio:download_duration_seconds",
            "Seconds from the order to the end of a download, including pauses.",
            ("source", "outcome"),
            buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
            registry=registry,
        )
        self._failures = Counter(
            "patio:download_failures_total",
            "Failed attempts at downloads.",
            ("source", "reason"),
            registry=registry,
        )

    def count_bytes(self, source: str, amount: int) -> None:
        """Count bytes that were read."""
        self._bytes.labels(source).inc(amount)

    def count_failure(self, source: str, reason: str) -> None:
        """Count an attempt that failed."""
        self._failures.labels(source, reason).inc()

    def count_end(self, source: str, outcome: str, seconds: float) -> None:
        """Count a download that ended."""
        self._seconds.labels(source, outcome).observe(seconds)

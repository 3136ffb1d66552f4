"""What downloads measure of themselves, in the sidecar's registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from patio.downloads.inventory import DiskUsage
from patio.written_metrics import Observations, Read, Tally, gauges
from patio_protocol.downloads import DownloadReason, DownloadReport, DownloadState
from patio_protocol.sources import SourceKind

UNFINISHED = (DownloadState.QUEUED, DownloadState.RUNNING, DownloadState.WAITING)
REASONS = tuple(
    reason
    for reason in DownloadReason
    if reason not in (DownloadReason.TOO_MANY, DownloadReason.CANCELLED, DownloadReason.CREDENTIALS_MISSING)
)
"""Why an attempt can fail; the others end a download before its first attempt, or between two."""
LOCAL_REASONS = tuple(
    reason
    for reason in REASONS
    if reason not in (DownloadReason.UNAUTHORIZED, DownloadReason.UNREACHABLE, DownloadReason.SLOW)
)
"""Those without a network."""


class DownloadMetrics:
    """Counters of downloads; and, read when they are scraped, those that run and the disk."""

    def __init__(
        self,
        registry: CollectorRegistry,
        reports: Callable[[], Sequence[DownloadReport]],
        disk: Callable[[], DiskUsage | None],
    ) -> None:
        self._bytes = Tally(
            "patio:download_bytes_total",
            "Bytes read from sources.",
            ("source",),
            registry,
            initial=((str(kind),) for kind in SourceKind),
        )
        self._seconds = Observations(
            "patio:download_duration_seconds",
            "Seconds from the order to the end of a download, including pauses.",
            ("source", "outcome"),
            (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
            registry,
        )
        remote, local = (SourceKind.HF, SourceKind.S3, SourceKind.OBS), (SourceKind.PVC, SourceKind.FILE)
        self._failures = Tally(
            "patio:download_failures_total",
            "Failed attempts at downloads.",
            ("source", "reason"),
            registry,
            initial=(
                (str(kind), str(reason)) for kind, reason in (*product(remote, REASONS), *product(local, LOCAL_REASONS))
            ),
        )
        registry.register(_Unfinished(reports))
        registry.register(Read(disk, _disk))

    def count_bytes(self, source: str, amount: int) -> None:
        """Count bytes that were read."""
        self._bytes.count(source, amount=amount)

    def count_failure(self, source: str, reason: str) -> None:
        """Count an attempt that failed."""
        self._failures.count(source, reason)

    def count_end(self, source: str, outcome: str, seconds: float) -> None:
        """Count a download that ended."""
        self._seconds.observe(seconds, source, outcome)


class _Unfinished(Collector):
    """The downloads that have not ended."""

    def __init__(self, reports: Callable[[], Sequence[DownloadReport]]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        unfinished = [report for report in self._reports() if report.state in UNFINISHED]
        yield gauges(
            "patio:downloads",
            "Downloads that have not ended, by state.",
            ("state",),
            {(str(state),): float(sum(report.state is state for report in unfinished)) for state in UNFINISHED},
        )
        sized = [report for report in unfinished if report.bytes_total is not None]
        yield gauges(
            "patio:download_expected_bytes",
            "Bytes that the files of unfinished downloads will have, as far as their sources were listed.",
            (),
            {(): float(sum(report.bytes_total or 0 for report in sized))},
        )
        yield gauges(
            "patio:download_done_bytes",
            "Bytes of patio:download_expected_bytes that are on disk.",
            (),
            {(): float(sum(report.bytes_done for report in sized))},
        )


def _disk(disk: DiskUsage | None) -> Iterator[Metric]:
    """Yield nothing for a folder that is not there, or could not be read."""
    values = {} if disk is None else {"used": disk.used, "held": disk.held, "free": disk.free, "limit": disk.limit}
    yield gauges(
        "patio:download_disk_bytes",
        "Bytes of the folder of downloads: used, held by adapters of this pod, free on its file system, and its limit.",
        ("kind",),
        {(kind,): float(size) for kind, size in values.items()},
    )

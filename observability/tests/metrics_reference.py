"""The metrics that exist, as the generated reference of the documentation has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"\| `((?:patio:|patio_operator_|process_)\w+)` \| (gauge|counter|histogram) \|([^|]*)\|")
PART = re.compile(r"_(bucket|sum|count)$")


@dataclass(frozen=True)
class Metric:
    """A family."""

    kind: str
    is_of_the_engine: bool
    labels: tuple[str, ...] = ()
    """Of a family that sidecar or operator measure themselves."""


@cache
def metrics() -> dict[str, Metric]:
    """Return every family of sidecar and operator by its name."""
    found: dict[str, Metric] = {}
    section = ""
    for line in (ROOT / "docs/reference/metrics.md").read_text().splitlines():
        section = line if line.startswith("## ") else section
        if row := ROW.match(line):
            of_the_engine = section == "## The vocabulary"
            labels = () if of_the_engine else tuple(re.findall(r"`(\w+)`", row[3]))
            found[row[1]] = Metric(row[2], of_the_engine, labels)
    return found


def kind_of(series: str) -> str:
    """Return the type of a series: what a histogram consists of are counters."""
    known = metrics()
    if series in known:
        return known[series].kind
    base = known.get(PART.sub("", series))
    assert base is not None, f"there is no metric {series}"
    assert base.kind == "histogram", f"there is no metric {series}"
    return "counter"


# Of others: cAdvisor, kube-state-metrics, the DCGM exporter, Prometheus itself.
EXTERNAL = {
    "container_cpu_usage_seconds_total": "counter",
    "container_cpu_cfs_periods_total": "counter",
    "container_cpu_cfs_throttled_periods_total": "counter",
    "container_memory_working_set_bytes": "gauge",
    "kube_pod_container_status_restarts_total": "counter",
    "DCGM_FI_DEV_GPU_UTIL": "gauge",
    "DCGM_FI_DEV_FB_USED": "gauge",
    "DCGM_FI_DEV_POWER_USAGE": "gauge",
    "DCGM_FI_DEV_XID_ERRORS": "gauge",
    "ALERTS": "gauge",
}

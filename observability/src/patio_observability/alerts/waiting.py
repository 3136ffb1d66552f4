"""Alerts that wait for metrics which the products do not have yet."""

from __future__ import annotations

WAITING = {
    "PatioDiskAlmostFull": "patio:download_disk_bytes",
    "PatioDrainCut": "patio:drains_total",
}
"""The metric that each waits for. A test fails when it exists, so that the alert is written then."""

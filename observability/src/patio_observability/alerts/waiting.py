"""Alerts that wait for metrics which the products do not have yet."""

from __future__ import annotations

WAITING = {
    "PatioWebhookCertificateExpires": "patio_operator_certificate_expiry_timestamp_seconds",
    "PatioReconcileStuck": "patio_operator_queue_oldest_seconds",
    "PatioAdapterNotReady": "patio_operator_loraadapters",
    "PatioGroupNotReady": "patio_operator_rolebasedgroups",
    "PatioRolloutStopped": "patio_operator_profiles",
    "PatioSidecarsUnreachable": "patio_operator_sidecars",
}
"""The metric that each waits for. A test fails when it exists, so that the alert is written then."""

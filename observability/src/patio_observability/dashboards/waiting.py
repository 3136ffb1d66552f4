"""Panels that wait for metrics which the products do not have yet: where each goes, and what it will show.

A test fails when one of these metrics exists, so that its panel is written then.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """One panel to come."""

    metric: str
    dashboard: str
    shows: str


WAITING = (
    Waiting("patio_operator_queue_depth", "patio-operator", "keys in the work queues"),
    Waiting("patio_operator_queue_oldest_seconds", "patio-operator", "age of the oldest key"),
    Waiting("patio_operator_retries_total", "patio-operator", "retries by kind"),
    Waiting("patio_operator_loraadapters", "patio-operator", "LoraAdapters by the reason of Ready"),
    Waiting("patio_operator_rolebasedgroups", "patio-operator", "RoleBasedGroups by reason"),
    Waiting("patio_operator_profiles", "patio-operator", "pods with the current profile, and behind it"),
    Waiting("patio_operator_certificate_expiry_timestamp_seconds", "patio-operator", "days left of certificate and CA"),
    Waiting("patio_operator_signing_key_created_timestamp_seconds", "patio-operator", "age of the signing key"),
    Waiting("patio_operator_sidecars", "patio-operator", "sidecars by reachability"),
    Waiting("patio_operator_sidecar_calls_total", "patio-operator", "calls to sidecars by code"),
    Waiting("patio_operator_api_requests_total", "patio-operator", "requests to the API server by verb and code"),
    Waiting("patio_operator_watch_restarts_total", "patio-operator", "restarts of watches"),
    Waiting("patio_operator_build_info", "patio-operator", "version of each replica"),
)
"""Names are those of the list of gaps; the product's name counts when it comes."""

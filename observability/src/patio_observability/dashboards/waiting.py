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
    Waiting("patio:engine_info", "patio-fleet", "engine_up and adapters of one model, while its engine is down"),
    Waiting("patio:ready", "patio-fleet", "pods that are not ready"),
    Waiting("patio:waiting_for", "patio-engine", "what a pod's readiness waits for"),
    Waiting("patio:lora_adapter_info", "patio-adapters", "revision of each adapter on each pod during a rollout"),
    Waiting("patio:lora_adapter_state_since_seconds", "patio-adapters", "oldest age of an adapter in a state"),
    Waiting("patio:draining", "patio-engine", "drain: pods that drain, how long, and what was cut"),
    Waiting("patio:drain_duration_seconds", "patio-engine", "how long a drain takes"),
    Waiting("patio:drains_total", "patio-engine", "drains by outcome"),
    Waiting("patio:downloads", "patio-adapters", "downloads by state"),
    Waiting("patio:download_expected_bytes", "patio-adapters", "progress of downloads"),
    Waiting("patio:download_disk_bytes", "patio-adapters", "disk used of its limit"),
    Waiting("patio:engine_restarts_total", "patio-engine", "restarts of the engine that the sidecar saw"),
    Waiting("patio:engine_start_seconds", "patio-engine", "time that an engine needs to become ready"),
    Waiting("patio:http_responses_total", "patio-fleet", "availability by class of response"),
    Waiting("patio:num_requests_waiting_by_reason", "patio-engine", "queue by reason"),
    Waiting("patio:engine_sleep_state", "patio-engine", "engines that are asleep"),
    Waiting("patio:operator_contact_timestamp_seconds", "patio-operator", "sidecars that the operator does not reach"),
)
"""Names are those of the list of gaps; the product's name counts when it comes."""

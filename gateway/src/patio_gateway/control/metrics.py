"""What Envoy counts of requests, as Prometheus' metrics `envoy_patio_gateway_*`. Pure.

Envoy's logger of statistics counts by what the program left of a request. A label has no value that a client can
choose: a model that nobody declared counts as `-`. Histograms have no pod, since there is one for each combination.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from patio_gateway.control.replies import has_status

MOST_SERIES = 20_000
"""Combinations of labels that one of the loggers counts."""

IN_FLIGHT = "requests_in_flight"
"""Requests that pods, or the front, have at the moment."""

ENDED = "endpoint_requests_total"
"""Requests that have ended, by ModelEndpoint alone: a short text, which is read each second."""

DEMAND = rf"^patio_gateway\.({IN_FLIGHT}|{ENDED})"
"""Of which of Envoy's statistics `traffic_in` reads, as a regular expression."""

_ENDPOINT = ("endpoint", "%DYNAMIC_METADATA(patio:request:endpoint)%")
_MODEL = ("model", "%DYNAMIC_METADATA(patio:request:known)%")
_CLIENT = ("client", "%DYNAMIC_METADATA(patio:request:client)%")
_POD = ("pod", "%UPSTREAM_METADATA(patio:pod)%")
_CODE = ("code", "%RESPONSE_CODE%")
_REASON = ("reason", "%DYNAMIC_METADATA(patio:request:reason)%")


def loggers() -> list[dict[str, Any]]:
    """Return the access logs that count: of every request, of those with 200, and of those whose usage is known."""
    return [
        _logger(
            counters=[
                {"stat": _stat("requests_total", _ENDPOINT, _MODEL, _CLIENT, _POD, _CODE, _REASON), "value_fixed": 1},
                {"stat": _stat(ENDED, _ENDPOINT), "value_fixed": 1},
            ],
            histograms=[_milliseconds("request_milliseconds", "%DURATION%")],
        ),
        # The others are filtered, since Envoy logs an error for a value that is none.
        {
            **_logger(histograms=[_milliseconds("first_byte_milliseconds", "%RESPONSE_DURATION%")]),
            "filter": has_status(200),
        },
        {
            **_logger(
                counters=[
                    {
                        "stat": _stat(f"{kind}_tokens_total", _ENDPOINT, _MODEL, _CLIENT),
                        "value_format": f"%DYNAMIC_METADATA(patio:usage:{kind})%",
                    }
                    for kind in ("input", "output")
                ],
            ),
            "filter": {
                "metadata_filter": {
                    "matcher": {
                        "filter": "patio",
                        "path": [{"key": "usage"}, {"key": "input"}],
                        "value": {"present_match": True},
                    },
                    "match_if_key_not_found": False,
                }
            },
        },
    ]


def upstream_logger() -> dict[str, Any]:
    """Return the log of requests to pods and to the front that counts those on their way."""
    return _logger(
        gauges=[
            {
                # A log of this kind knows the pod and nothing of the request. The front is in no endpoint.
                "stat": _stat(
                    IN_FLIGHT,
                    ("endpoint", "%UPSTREAM_METADATA(envoy.lb:endpoint)%"),
                    ("at", "%UPSTREAM_METADATA(envoy.lb:role)%"),
                ),
                "value_fixed": 1,
                "add_subtract": {"add_log_type": "UpstreamPoolReady", "sub_log_type": "UpstreamEnd"},
            }
        ]
    )


_SERIES = re.compile(rf'^envoy_patio_gateway_({IN_FLIGHT}|{ENDED})\{{endpoint="([^"]+)"[^}}]*\}} (\d+)', re.MULTILINE)


def traffic_in(text: str) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the requests in flight at pods, and those that have ended, by ModelEndpoint.

    Args:
        text: what Envoy's administration says of `DEMAND`, in Prometheus' format.

    """
    counted: dict[str, Counter[str]] = {IN_FLIGHT: Counter(), ENDED: Counter()}
    for name, endpoint, value in _SERIES.findall(text):
        counted[name][endpoint] += int(value)
    return counted[IN_FLIGHT], counted[ENDED]


def _logger(**stats: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.stats",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config",
            # Of pods that are gone too: past these, Envoy counts no new ones.
            "stats_scope": {
                "prefix": "patio_gateway",
                "max_counters": MOST_SERIES,
                "max_gauges": MOST_SERIES,
                "max_histograms": MOST_SERIES,
            },
            **stats,
        },
    }


def _milliseconds(name: str, value: str) -> dict[str, Any]:
    return {"stat": _stat(name, _ENDPOINT, _MODEL), "unit": "Milliseconds", "value_format": value}


def _stat(name: str, *tags: tuple[str, str]) -> dict[str, Any]:
    return {"name": name, "tags": [{"name": tag, "value_format": value} for tag, value in tags]}

"""How many requests a minute each client may send, as Envoy's filter of local rate limits. Pure.

The program names the client in a header where its limit counts. Each replica of the gateway counts for itself.
"""

from __future__ import annotations

from typing import Any

from patio_gateway.snapshot import Snapshot

_MOST = 2**32 - 1
_ALWAYS = {"numerator": 100, "denominator": "HUNDRED"}


def limits(snapshot: Snapshot) -> dict[str, Any]:
    """Return the configuration of the filter."""
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "requests",
        "filter_enabled": {"default_value": _ALWAYS},
        "filter_enforced": {"default_value": _ALWAYS},
        # A client without a limit of its own meets this bucket alone.
        "token_bucket": {"max_tokens": _MOST, "tokens_per_fill": _MOST, "fill_interval": "1s"},
        "always_consume_default_token_bucket": False,
        "rate_limits": [
            {"actions": [{"request_headers": {"header_name": "x-patio-limit", "descriptor_key": "client"}}]}
        ],
        "descriptors": [
            {
                "entries": [{"key": "client", "value": client.name}],
                "token_bucket": {
                    "max_tokens": min(client.requests_per_minute, _MOST),
                    "tokens_per_fill": min(client.requests_per_minute, _MOST),
                    "fill_interval": "60s",
                },
            }
            for client in snapshot.clients
            if snapshot.closed and client.requests_per_minute
        ],
    }

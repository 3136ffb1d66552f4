"""How many requests and tokens a minute each client may use, as Envoy's filter of local rate limits. Pure.

The program names the client in one header where its requests count, and in another where its tokens do. Envoy 1.40 can
charge a limit of this kind when a request comes, not when its answer ends (`apply_on_stream_done` is accepted and does
nothing). So the program keeps what an answer took, and a third header charges it with the client's next request. Each
replica of the gateway counts for itself.
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
            {"actions": [_client_in("x-patio-limit", "requests")]},
            {"actions": [_client_in("x-patio-tokens", "tokens")], "hits_addend": {"format": "%REQ(X-PATIO-CHARGE)%"}},
        ],
        "descriptors": [
            _bucket(key, client.name, most)
            for client in snapshot.clients
            for key, most in (("requests", client.requests_per_minute), ("tokens", client.tokens_per_minute))
            if snapshot.closed and most is not None
        ],
        # The program takes it away again, and the charge back.
        "response_headers_to_add": [{"header": {"key": "x-patio-limited", "value": "1"}}],
    }


def _client_in(header: str, key: str) -> dict[str, Any]:
    return {"request_headers": {"header_name": header, "descriptor_key": key}}


def _bucket(key: str, client: str, most: int) -> dict[str, Any]:
    """Return a bucket for a minute's worth, which refills all the time."""
    whole = min(max(most, 1), _MOST)
    return {
        "entries": [{"key": key, "value": client}],
        "token_bucket": {"max_tokens": whole, "tokens_per_fill": whole, "fill_interval": "60s"},
    }

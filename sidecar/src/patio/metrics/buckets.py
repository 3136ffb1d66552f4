"""Bounds of buckets that all engines have, by standard histogram: for the documentation. Pure.

A share of observations below one of them is right across engines; a quantile over both engines' buckets never is. A
test compares this table with the recordings. The running sidecar does not import it: buckets pass through as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

_TOKEN = (0.01, 0.025, 0.1, 0.2, 0.4, 1)

SHARED_BOUNDS: Mapping[str, tuple[float, ...]] = {
    "time_to_first_token_seconds": (0.1, 1, 10, 20, 40, 80),
    "inter_token_latency_seconds": _TOKEN,
    "time_per_output_token_seconds": _TOKEN,
    "e2e_request_latency_seconds": (0.8, 1, 2, 10, 20, 40, 60),
    "request_queue_time_seconds": (0.5, 1, 2, 5, 10, 15, 20, 30, 40, 50, 60),
    # vLLM has bounds up to the model's longest context: 512 tokens where it was recorded.
    "request_prompt_tokens": (100, 500),
    "request_output_tokens": (100, 500),
}

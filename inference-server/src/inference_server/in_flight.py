"""How many requests an engine has, by its own metrics. Pure.

`server` asks for it before a stop that lets requests finish.
"""

from __future__ import annotations

NAMES = frozenset(
    (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "sglang:num_running_reqs",
        "sglang:num_queue_reqs",
    )
)
"""Gauges of requests in work and of requests that wait: vLLM 0.32.0, SGLang 0.5.23."""


def requests_in_flight(text: str) -> int | None:
    """Return how many requests run or wait; None if a metrics text does not say.

    An engine of several ranks has a line for each, and some lines count the same request twice; 0 is 0 all the same.
    """
    found: int | None = None
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name not in NAMES:
            continue
        try:
            value = float(line.rpartition("}")[2].split()[0] if "{" in line else line.split()[1])
            found = (found or 0) + int(value)
        except (ValueError, IndexError, OverflowError):
            continue
    return found

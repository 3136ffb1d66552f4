"""The requests that an engine has, read from its metrics."""

from __future__ import annotations

import pytest

from inference_server.in_flight import requests_in_flight

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a} 9"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0 1700000000
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 1.0
"""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (VLLM, 3),
        ("vllm:num_requests_running 0.0\n", 0),
        ('sglang:num_running_reqs{tp_rank="0"} 1.0\nsglang:num_queue_reqs{tp_rank="0"} 4.0\n', 5),
        ("vllm:num_requests_running NaN\nvllm:num_requests_running +Inf\nvllm:num_requests_running\n", None),
        ("", None),
        ("# nothing of ours\nup 1\n", None),
    ],
)
def test_requests_are_those_that_run_or_wait(text: str, count: int | None) -> None:
    assert requests_in_flight(text) == count

"""Calls from outside over raw sockets, to a sidecar as a process: a few of those that `make fuzz` sends."""

from __future__ import annotations

import httpx
import pytest

from benchmarks.fuzz_api import running_sidecar
from benchmarks.fuzz_guard import fuzz_process, outside_address, state_of


@pytest.mark.skipif(outside_address() is None, reason="this machine has no address but loopback")
async def test_no_call_over_a_socket_changes_anything() -> None:
    with running_sidecar("vllm", host="::") as url:
        before = state_of(url)
        answers = await fuzz_process(outside_address() or "", httpx.URL(url).port or 0, 500, 11)
        assert state_of(url) == before
    assert answers.total >= 500
    assert answers.statuses[401] > 100

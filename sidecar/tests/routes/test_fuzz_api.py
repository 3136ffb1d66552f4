"""The API under requests that its document allows and forbids: a few of those that `make fuzz` sends."""

from __future__ import annotations

import pytest

from benchmarks.fuzz_api import fuzz, running_sidecar


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_no_request_breaks_a_law(engine: str) -> None:
    with running_sidecar(engine) as url:
        assert fuzz(url, 250, 4) >= 250

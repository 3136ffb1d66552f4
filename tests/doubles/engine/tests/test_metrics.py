"""The double's `/metrics` against the recorded texts."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from engine_double import recorded, running_double
from engine_double.metrics import SGLANG_FILE, SGLANG_IDLE_FILE, VLLM_FILE
from engine_double.samples import write_adapter
from patio_testing.deadline import DEADLINE

OURS = ("http_", "vllm:lora_requests_info")
"""Families whose series depend on what was asked."""


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def series(text: str) -> set[str]:
    """Every sample without its value, and without the halves that only traffic brings."""
    lines = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith(("#", *OURS))]
    return set(lines)


async def scraped(engine: str) -> tuple[str, str]:
    """Before and after one request."""
    async with (
        running_double(engine=engine) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        idle = (await client.get("/metrics")).text
        await client.post("/v1/completions", json={"model": "tiny", "prompt": "hello world", "max_tokens": 3})
        return idle, (await client.get("/metrics")).text


async def test_vllm_has_every_recorded_family_and_series() -> None:
    idle, _ = await scraped("vllm")
    assert comments(idle) == comments(recorded.text(VLLM_FILE))
    assert series(idle) == series(recorded.text(VLLM_FILE))


async def test_sglang_has_all_recorded_families_some_after_traffic() -> None:
    idle, busy = await scraped("sglang")
    assert set(comments(idle)) == set(comments(recorded.text(SGLANG_IDLE_FILE)))
    assert "sglang:inter_token_latency_seconds" not in idle
    assert comments(busy) == comments(recorded.text(SGLANG_FILE))
    assert series(busy) == series(recorded.text(SGLANG_FILE))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_nothing_is_counted_before_the_first_request(engine: str) -> None:
    idle, busy = await scraped(engine)
    for name, expected in (("generation_tokens_total", 3), ("prompt_tokens_total", 2)):
        assert total(idle, f"{engine}:{name}") == 0
        assert total(busy, f"{engine}:{name}") == expected


async def test_phases_of_a_request_add_up_to_the_whole() -> None:
    async with (
        running_double(tokens_per_second=100) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        await client.post("/v1/completions", json={"model": "tiny", "prompt": "hello world", "max_tokens": 3})
        text = (await client.get("/metrics")).text
    phases = [total(text, f"vllm:request_{phase}_time_seconds_sum") for phase in ("queue", "prefill", "decode")]
    assert sum(phases) == pytest.approx(total(text, "vllm:e2e_request_latency_seconds_sum"))
    assert min(phases[1:]) > 0
    assert [total(text, f"vllm:request_{phase}_time_seconds_count") for phase in ("queue", "decode")] == [1, 1]


async def test_buckets_are_cumulative() -> None:
    _, busy = await scraped("vllm")
    buckets = [
        float(line.rpartition(" ")[2])
        for line in busy.splitlines()
        if line.startswith("vllm:e2e_request_latency_seconds_bucket")
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 1


async def test_test_can_fix_numbers_and_names_its_model(tmp_path: Path) -> None:
    async with running_double(served_model_names=("llama",)) as double:
        double.set_metrics(vllm__num_requests_waiting=7, vllm__kv_cache_usage_perc=0.5)
        async with httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client:
            path = str(write_adapter(tmp_path / "a"))
            await client.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": path})
            text = (await client.get("/metrics")).text
    assert 'vllm:num_requests_waiting{engine="0",model_name="llama"} 7.0' in text
    assert 'vllm:kv_cache_usage_perc{engine="0",model_name="llama"} 0.5' in text
    assert 'http_requests_total{handler="/v1/load_lora_adapter",method="POST",status="2xx"} 1.0' in text


def total(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

"""How many adapters an engine takes, as the sidecar reports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from engine_double import running_double
from patio.engine.base import Capacity
from patio.engine.sglang import Sglang
from patio.engine.vllm import Vllm
from patio_protocol.adapters import AdapterCapacity
from patio_protocol.client import SidecarClient
from patio_testing.sidecar.builders import StartSidecar, adapter_files, eventually


async def reported_capacity(client: SidecarClient) -> AdapterCapacity:
    async def check() -> Any:
        capacity = (await client.adapters()).capacity
        return capacity if capacity != AdapterCapacity() else None

    known_capacity = await eventually(check, "the engine's capacity is known")
    assert isinstance(known_capacity, AdapterCapacity)
    return known_capacity


async def test_sglang_tells_both_of_its_limits(sidecar: StartSidecar) -> None:
    async with running_double(engine="sglang", max_loras=3, max_loaded_loras=8) as double, sidecar(double) as client:
        assert await reported_capacity(client) == AdapterCapacity(batch=3, loaded=8)


async def test_sglang_without_adapters_reports_no_capacity() -> None:
    async with running_double(engine="sglang", enable_lora=False) as double, httpx.AsyncClient() as http:
        assert await Sglang(str(double), http, None, None, None).capacity() == Capacity()


async def test_vllm_tells_the_size_of_its_batch_after_traffic(sidecar: StartSidecar, tmp_path: Path) -> None:
    async with running_double(engine="vllm", max_loras=5) as double, httpx.AsyncClient() as http:
        engine = Vllm(str(double), http, None)
        assert (await engine.capacity()).batch is None
        await engine.load("a", adapter_files(tmp_path / "a"))
        completion = {"model": "a", "prompt": "hello", "max_tokens": 1}
        (await http.post(f"{double}/v1/completions", json=completion)).raise_for_status()
        async with sidecar(double) as client:
            assert await reported_capacity(client) == AdapterCapacity(batch=5)


async def test_capacity_is_read_from_recorded_vllm_metrics(recordings: Path) -> None:
    text = (recordings / "vllm/metrics-0.32.0.txt").read_bytes()
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=text))
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await Vllm("http://engine", http, None).capacity()).batch == 2

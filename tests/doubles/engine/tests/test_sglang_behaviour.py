"""SGLang's double over time: waiting, blocking and draining, as recorded in A5, A9 and B."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from engine_double import Double, running_double
from engine_double.samples import write_adapter
from patio_testing.deadline import DEADLINE


async def load(client: httpx.AsyncClient, name: str, path: Path) -> dict[str, Any]:
    answer = await client.post("/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)})
    content: dict[str, Any] = answer.json()
    return content


async def unload(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    content: dict[str, Any] = (await client.post("/unload_lora_adapter", json={"lora_name": name})).json()
    return content


async def complete(client: httpx.AsyncClient, model: str, max_tokens: int = 8) -> int:
    body = {"model": model, "prompt": "hello world", "max_tokens": max_tokens}
    answer = (await client.post("/v1/completions", json=body)).json()
    count: int = answer["usage"]["completion_tokens"]
    return count


async def listed(client: httpx.AsyncClient) -> list[str]:
    return [card["id"] for card in (await client.get("/v1/models")).json()["data"]]


async def until_running(double: Double, count: int) -> None:
    async with asyncio.timeout(DEADLINE):
        await double.engine.core.batch.until_running(count)


async def test_unload_waits_for_its_requests_and_all_else_waits_for_it(tmp_path: Path) -> None:
    async with (
        running_double(engine="sglang", tokens_per_second=40) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        for name in ("a0", "a1", "a2"):
            await load(client, name, write_adapter(tmp_path / name))
        generation = asyncio.create_task(complete(client, "tiny:a1", max_tokens=20))
        await until_running(double, 1)
        unloading = asyncio.create_task(unload(client, "a1"))
        async with asyncio.timeout(DEADLINE):
            while "a1" in await listed(client):
                pass
        # Gone from the list already, though the unload still waits.
        assert not unloading.done()
        loading = asyncio.create_task(load(client, "a9", tmp_path / "a2"))
        assert await complete(client, "tiny:a0", max_tokens=1) == 1, "requests for other adapters pass"
        assert not loading.done(), "but another load waits behind the unload"
        completion = asyncio.create_task(complete(client, "tiny:a1", max_tokens=1))
        assert await generation == 20
        assert (await unloading)["success"]
        assert (await loading)["loaded_adapters"].keys() >= {"a0", "a2", "a9"}
        assert await completion == 1
        assert "a1" in await listed(client), "the waiting request brought it back"


async def test_eviction_waits_for_the_evicted_adapters_requests(tmp_path: Path) -> None:
    async with (
        running_double(engine="sglang", tokens_per_second=40, max_loaded_loras=2) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        for name in ("a0", "a1", "a2"):
            write_adapter(tmp_path / name)
        await load(client, "a0", tmp_path / "a0")
        generation = asyncio.create_task(complete(client, "tiny:a0", max_tokens=10))
        await until_running(double, 1)
        await load(client, "a1", tmp_path / "a1")
        answer = await load(client, "a2", tmp_path / "a2")
        assert double.engine.core.batch.running.total() == 0, "the load answered after a0's last request"
        assert await generation == 10
        assert answer["success"]
        assert list(answer["loaded_adapters"]) == ["a1", "a2"]


async def test_sigterm_makes_it_not_ready_and_lets_requests_finish() -> None:
    async with (
        running_double(engine="sglang", tokens_per_second=40) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        generation = asyncio.create_task(complete(client, "tiny", max_tokens=20))
        await until_running(double, 1)
        ending = asyncio.create_task(double.terminate())
        async with asyncio.timeout(DEADLINE):
            while (await client.get("/ready")).status_code != 503:
                pass
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/v1/models")).status_code == 200
        assert await generation == 20
        await ending
        async with httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as late_client:
            refused = False
            try:
                await late_client.get("/ready")
            except httpx.ConnectError:
                refused = True
            assert refused


async def test_it_is_not_ready_while_it_warms_up_but_already_loads(tmp_path: Path) -> None:
    async with (
        running_double(engine="sglang", warmup_seconds=3600) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).status_code == 503
        assert (await load(client, "a", write_adapter(tmp_path / "a")))["success"]
        double.engine.core.started_at -= 3600
        assert (await client.get("/ready")).status_code == 200

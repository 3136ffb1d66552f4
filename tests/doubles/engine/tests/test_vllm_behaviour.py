"""vLLM's double over time: what single recorded exchanges cannot show."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx

from engine_double import Double, running_double
from engine_double.adapters import inspect
from engine_double.samples import write_adapter
from engine_double.text import answer_text
from patio_testing.deadline import DEADLINE


async def load(client: httpx.AsyncClient, name: str, path: Path, **more: object) -> httpx.Response:
    return await client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path), **more})


async def complete(client: httpx.AsyncClient, model: str, max_tokens: int = 8) -> str:
    answer = await client.post(
        "/v1/completions", json={"model": model, "prompt": "hello world", "max_tokens": max_tokens}
    )
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["text"]
    return text


async def until_running(double: Double, count: int) -> None:
    async with asyncio.timeout(DEADLINE):
        await double.engine.core.batch.until_running(count)


async def test_each_adapter_has_its_own_answer_and_always_the_same(tmp_path: Path) -> None:
    async with running_double() as double, httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client:
        await load(client, "a", write_adapter(tmp_path / "a"))
        await load(client, "b", write_adapter(tmp_path / "b"))
        answers = [await complete(client, model) for model in ("tiny", "a", "b")]
        assert len(set(answers)) == 3
        assert [await complete(client, model) for model in ("tiny", "a", "b")] == answers


async def test_load_in_place_swaps_the_weights_under_the_name(tmp_path: Path) -> None:
    async with running_double() as double, httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client:
        await load(client, "a", write_adapter(tmp_path / "one"))
        await load(client, "other", write_adapter(tmp_path / "two"))
        await load(client, "a", tmp_path / "two", load_inplace=True)
        assert await complete(client, "a") == await complete(client, "other")


async def test_unload_answers_at_once_and_the_running_request_finishes(tmp_path: Path) -> None:
    async with (
        running_double(tokens_per_second=50) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        await load(client, "a", write_adapter(tmp_path / "a"))
        request = asyncio.create_task(complete(client, "a", max_tokens=10))
        await until_running(double, 1)
        assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": "a"})).status_code == 200
        assert not request.done()
        assert len((await request).split()) == 10


async def test_running_request_keeps_its_weights_through_a_reload(tmp_path: Path) -> None:
    old_weights, new_weights = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two")
    async with (
        running_double(tokens_per_second=40) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        await load(client, "a", old_weights)
        request = asyncio.create_task(complete(client, "a", max_tokens=12))
        await until_running(double, 1)
        await client.post("/v1/unload_lora_adapter", json={"lora_name": "a"})
        await load(client, "a", new_weights)
        assert await request == answer_text(inspect(str(old_weights)).digest, "hello world", 12)
        assert await complete(client, "a", max_tokens=12) == answer_text(
            inspect(str(new_weights)).digest, "hello world", 12
        )


async def test_load_in_place_changes_the_weights_of_a_running_request(tmp_path: Path) -> None:
    old_weights, new_weights = write_adapter(tmp_path / "one"), write_adapter(tmp_path / "two")
    async with (
        running_double(tokens_per_second=40) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        await load(client, "a", old_weights)
        request = asyncio.create_task(complete(client, "a", max_tokens=20))
        async with asyncio.timeout(DEADLINE):
            while double.engine.core.stats.generation_tokens < 3:
                await client.get("/v1/models")
        await load(client, "a", new_weights, load_inplace=True)
        answer = await request
        assert answer not in [
            answer_text(inspect(str(path)).digest, "hello world", 20) for path in (old_weights, new_weights)
        ]
        assert answer.startswith(answer_text(inspect(str(old_weights)).digest, "hello world", 3))
        assert answer.split()[-1] == answer_text(inspect(str(new_weights)).digest, "hello world", 20).split()[-1]


async def test_requests_over_the_batch_wait_and_the_metrics_tell(tmp_path: Path) -> None:
    async with (
        running_double(tokens_per_second=50, max_num_seqs=1) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        await load(client, "a", write_adapter(tmp_path / "a"))
        requests = [asyncio.create_task(complete(client, "a", max_tokens=5)) for _ in range(3)]
        await until_running(double, 1)
        async with asyncio.timeout(DEADLINE):
            while True:
                text = (await client.get("/metrics")).text
                if 'vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0' in text:
                    break
        assert 'vllm:num_requests_running{engine="0",model_name="tiny"} 1.0' in text
        assert 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a",waiting_lora_adapters="a"}' in text
        await asyncio.gather(*requests)
        text = (await client.get("/metrics")).text
        assert 'vllm:generation_tokens_total{engine="0",model_name="tiny"} 15.0' in text
        assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 3.0' in text
        assert 'vllm:e2e_request_latency_seconds_count{engine="0",model_name="tiny"} 3.0' in text
        assert 'running_lora_adapters="",waiting_lora_adapters=""' in text


async def test_no_more_than_max_loras_adapters_run_at_once(tmp_path: Path) -> None:
    async with (
        running_double(tokens_per_second=50, max_loras=1) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        for name in ("a", "b"):
            await load(client, name, write_adapter(tmp_path / name))
        completion = asyncio.create_task(complete(client, "a", max_tokens=10))
        await until_running(double, 1)
        second = asyncio.create_task(complete(client, "b", max_tokens=1))
        await until_running(double, 1)
        await completion
        await second
        assert double.engine.core.stats.finished["length"] == 2


async def test_sigterm_aborts_what_runs_and_closes_the_port(tmp_path: Path) -> None:
    async with (
        running_double(tokens_per_second=20) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        body = {"model": "tiny", "prompt": "hello world", "max_tokens": 400, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            ending = asyncio.create_task(double.terminate())
            events = [line.removeprefix("data: ") async for line in lines if line]
            await ending
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "abort"
        async with httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as late_client:
            assert await is_refused(late_client)


async def test_client_that_disconnects_frees_its_place() -> None:
    async with (
        running_double(tokens_per_second=50) as double,
        httpx.AsyncClient(base_url=double.url, timeout=DEADLINE) as client,
    ):
        body = {"model": "tiny", "prompt": "hello world", "max_tokens": 400, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as stream:
            await anext(stream.aiter_lines())
            await until_running(double, 1)
        await until_running(double, 0)


async def is_refused(client: httpx.AsyncClient) -> bool:
    try:
        await client.get("/health")
    except httpx.ConnectError:
        return True
    return False

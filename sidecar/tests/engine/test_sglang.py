"""What only SGLang does: evictions that nobody ordered, and requests that bring back what was unloaded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from engine_double import Double, running_double
from engine_double.samples import write_adapter
from patio.engine.sglang import Sglang
from patio_protocol.adapters import AdapterReport, AdapterState, UnloadRequest
from patio_protocol.client import SidecarClient
from patio_protocol.engines import EngineKind
from patio_protocol.errors import RejectedError
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import StartSidecar, eventually, load_request
from patio_testing.sidecar.engine_stand_ins import answering

LOAD, UNLOAD = "/load_lora_adapter", "/unload_lora_adapter"
OWNER = "LoraAdapter/team-a/a"


async def ask(double: Double, model: str) -> int:
    async with httpx.AsyncClient(timeout=DEADLINE) as http:
        answer = await http.post(f"{double}/v1/completions", json={"model": model, "prompt": "hello", "max_tokens": 1})
    return answer.status_code


async def ready(client: SidecarClient) -> None:
    async def check() -> bool:
        return (await client.ready()).ready

    await eventually(check, "the sidecar is ready")


async def limits_known(client: SidecarClient) -> None:
    async def check() -> bool:
        return (await client.adapters()).capacity.batch is not None

    await eventually(check, "the engine's limits are known")


async def reaches(client: SidecarClient, name: str, state: str, reason: str) -> AdapterReport:
    async def check() -> AdapterReport | None:
        reached = {report.lora_name: report for report in (await client.adapters()).adapters}.get(name)
        return reached if reached is not None and (reached.state, reached.reason) == (state, reason) else None

    reached: AdapterReport = await eventually(check, f"{name} is {state}, {reason}")
    return reached


async def polled(double: Double, number: int = 4) -> None:
    polls_before = len(double.calls("/v1/models"))

    async def check() -> bool:
        return len(double.calls("/v1/models")) >= polls_before + number

    await eventually(check, f"{number} polls later")


async def test_eviction_by_a_request_is_noticed_and_not_fought(sidecar: StartSidecar, tmp_path: Path) -> None:
    async with running_double(engine="sglang", max_loaded_loras=2) as double, sidecar(double) as client:
        await ready(client)
        await limits_known(client)
        for name in ("a", "b", "c"):
            await client.load(load_request(name, str(write_adapter(tmp_path / name))))
        await reaches(client, "a", "Failed", "EvictedByEngine")
        loads = len(double.calls(LOAD))
        assert await ask(double, "tiny:a") == 200, "the engine loads it again, and evicts another for it"
        await reaches(client, "a", "Loaded", "Loaded")
        evicted = await reaches(client, "b", "Failed", "EvictedByEngine")
        assert "--max-loaded-loras" in evicted.message
        await polled(double)
        assert len(double.calls(LOAD)) == loads, "loading it again would evict the next one"
        assert (await client.ready()).ready


async def test_evicted_adapter_is_loaded_again_into_a_free_slot(sidecar: StartSidecar, tmp_path: Path) -> None:
    async with running_double(engine="sglang", max_loaded_loras=2) as double, sidecar(double) as client:
        await ready(client)
        await limits_known(client)
        for name in ("a", "b", "c"):
            await client.load(load_request(name, str(write_adapter(tmp_path / name))))
        await reaches(client, "a", "Failed", "EvictedByEngine")
        await client.unload(UnloadRequest(lora_name="c"))
        await reaches(client, "a", "Loaded", "Loaded")
        await reaches(client, "b", "Loaded", "Loaded")


async def test_unload_that_a_request_undoes_is_made_again(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a"))
    async with running_double(engine="sglang") as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", path, owner=OWNER))
        assert (await client.unload(UnloadRequest(lora_name="a", owner=OWNER))).unloaded
        assert double.adapters == {}
        assert await ask(double, "tiny:a") == 200, "SGLang 0.5.23 answers, and has it again"
        assert double.adapters == {"a": path}

        async def is_unloaded() -> bool:
            return not double.adapters and not (await client.adapters()).adapters

        await eventually(is_unloaded, "it is unloaded once more")
        assert await ask(double, "tiny:a") == 200
        report = await reaches(client, "a", "Unloading", "ReloadedByEngine")
        assert report.owner is None
        assert "request" in report.message
        await eventually(is_unloaded, "and again, after a pause")
        assert len(double.calls(UNLOAD)) == 3


async def test_adapter_that_comes_back_can_be_ordered_again(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a"))
    async with running_double(engine="sglang") as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", path, owner=OWNER))
        await client.unload(UnloadRequest(lora_name="a", owner=OWNER))
        for _ in range(2):
            await ask(double, "tiny:a")
        assert (await client.load(load_request("a", path, owner=OWNER))).state is AdapterState.LOADED
        await polled(double)
        assert double.adapters == {"a": path}


async def test_return_paths_survive_sidecar_restart_not_engine_restart(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a"))
    async with running_double(engine="sglang", lora_modules=(("a", path),)) as double:
        async with sidecar(double) as client:
            await ready(client)
            assert (await client.unload(UnloadRequest(lora_name="a"))).unloaded
        await ask(double, "tiny:a")
        assert double.adapters == {"a": path}
        async with sidecar(double) as client:

            async def is_unloaded() -> bool:
                return not double.adapters

            await eventually(is_unloaded, "it is unloaded once more")
            await double.crash()

            async def down() -> bool:
                return not (await client.ready()).ready

            await eventually(down, "the sidecar notices")
            await double.start()
            # What the engine is started with is the engine's own again.
            await reaches(client, "a", "Loaded", "Unmanaged")
            await polled(double)
            assert double.adapters == {"a": path}


@pytest.mark.parametrize("other", [True, False])
async def test_adapter_loaded_at_engine_after_unload_is_left_alone(
    sidecar: StartSidecar, tmp_path: Path, other: bool
) -> None:
    path, elsewhere = (str(write_adapter(tmp_path / name)) for name in ("a", "b"))
    async with running_double(engine="sglang") as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("a", path))
        await client.unload(UnloadRequest(lora_name="a"))
        async with httpx.AsyncClient() as http:
            body = {"lora_name": "a" if other else "b", "lora_path": elsewhere}
            (await http.post(f"{double}{LOAD}", json=body)).raise_for_status()
        await reaches(client, "a" if other else "b", "Loaded", "Unmanaged")
        await polled(double)
        assert list(double.adapters.values()) == [elsewhere]


async def test_report_names_model_by_base_and_adapter(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a"))
    async with running_double(engine="sglang") as double, sidecar(double) as client:
        await ready(client)
        report = await client.load(load_request("a", path))
        assert report.model == "tiny:a"
        assert await ask(double, report.model) == 200
        async with sidecar(double, model="qwen") as named:
            assert (await reaches(named, "a", "Loaded", "Loaded")).model == "qwen:a"


async def test_several_tokenizers_are_reported_and_flap_nothing(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a"))
    async with running_double(engine="sglang", tokenizer_workers=2) as double, sidecar(double) as client:
        await ready(client)
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", path))
        assert (raised.value.code, raised.value.retryable) == ("LoraUnavailable", False)
        assert "--tokenizer-worker-num" in raised.value.message
        reports = (await client.adapters()).adapters
        await polled(double)
        assert (await client.adapters()).adapters == reports, "nothing changes from look to look"
        assert (await client.ready()).ready, "the base model answers"
        assert not double.calls(LOAD)


async def test_list_that_alternates_is_reported_without_server_info(sidecar: StartSidecar) -> None:
    loads: list[str] = []
    lists = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As an SGLang whose processes answer in turn, of which one has the adapter."""
        nonlocal lists
        while request := (await reader.readuntil(b"\r\n\r\n")).decode():
            path = request.split()[1]
            body: dict[str, object] = {}
            if path == "/v1/models":
                lists += 1
                adapter = {"id": "a", "root": "/adapters/a", "parent": "tiny"}
                body = {"data": [{"id": "tiny", "parent": None}, *([adapter] if lists % 2 and loads else [])]}
            if path == LOAD:
                loads.append(path)
                body = {"success": True, "loaded_adapters": {"a": "/adapters/a"}}
            status = "404 Not Found" if path.endswith("server_info") else "200 OK"
            content = json.dumps(body).encode()
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)

    async with answering(answer) as port, sidecar(f"http://127.0.0.1:{port}", engine=EngineKind.SGLANG) as client:
        await ready(client)
        await client.load(load_request("a", "/adapters/a", wait=0))
        failed = await reaches(client, "a", "Failed", "LoraUnavailable")
        assert "from poll to poll" in failed.message
        lists_before = lists

        async def is_polled_again() -> bool:
            return lists >= lists_before + 6

        await eventually(is_polled_again, "six polls later")
        assert (await reaches(client, "a", "Failed", "LoraUnavailable")).since == failed.since
        assert (await client.ready()).ready


async def test_sglang_that_lists_no_adapters_is_reported(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = str(write_adapter(tmp_path / "a"))
    async with running_double(engine="sglang", lists_adapters=False) as double, sidecar(double) as client:
        await ready(client)
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", path))
        assert (raised.value.code, raised.value.retryable) == ("NotListed", False)
        assert "0.5.6" in raised.value.message
        assert double.adapters == {}, "what can not be read back is not left behind"
        loads = len(double.calls(LOAD))
        await polled(double)
        assert len(double.calls(LOAD)) == loads
        assert (await client.ready()).ready


async def test_repeated_unload_behind_a_load_keeps_new_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("patio.engine.http.CHANGE_SECONDS", 0.6)
    monkeypatch.setattr("patio.engine.sglang.QUICK", 0.1)
    adapters = {"a": "/one"}
    lock, requests_ended, load_asked = asyncio.Lock(), asyncio.Event(), asyncio.Event()
    unloads = 0

    async def change(path: str, body: dict[str, str]) -> httpx.Response:
        name = body["lora_name"]
        async with lock:  # given in the order in which it was asked for, also to whom nobody listens any more
            if path == UNLOAD:
                await asyncio.sleep(0.2)
                success = adapters.pop(name, None) is not None
                await requests_ended.wait()
            else:
                success = name not in adapters
                adapters.setdefault(name, body["lora_path"])
        error = {"error_message": "LoRA adapter is already loaded" if path == LOAD else "It does not exist"}
        return httpx.Response(200 if success else 400, json={"success": success, **({} if success else error)})

    async def engine(request: httpx.Request) -> httpx.Response:
        nonlocal unloads
        path = request.url.path
        if path == "/v1/models":
            base = {"id": "tiny", "root": "tiny", "parent": None}
            return httpx.Response(
                200,
                json={
                    "data": [
                        base,
                        *(
                            {"id": adapter_name, "root": adapter_path, "parent": "tiny"}
                            for adapter_name, adapter_path in adapters.items()
                        ),
                    ]
                },
            )
        if request.method == "GET":
            return httpx.Response(200, json={})
        changing = asyncio.create_task(change(path, json.loads(request.content)))
        changes.add(changing)
        if path == LOAD:
            load_asked.set()
        else:
            unloads += 1
            if unloads == 2 and load_asked.is_set():
                requests_ended.set()
        return await asyncio.shield(changing)

    changes: set[asyncio.Task[httpx.Response]] = set()
    async with httpx.AsyncClient(transport=httpx.MockTransport(engine)) as http:
        await Sglang("http://engine", http, None, None, None).replace("a", "/two")
    await asyncio.gather(*changes)
    assert unloads >= 2
    assert adapters == {"a": "/two"}

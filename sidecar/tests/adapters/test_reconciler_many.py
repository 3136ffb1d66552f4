"""Many adapters on one pod, and odd ones among them: what they cost, and that none harms another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from engine_double import running_double
from patio.adapters.desired import MOST_ADAPTERS, Desired, too_many, with_load, with_required
from patio.adapters.executor import LOADS_AT_ONCE
from patio.adapters.store import Store
from patio.downloads.downloads import Downloads
from patio.engine.vllm import Vllm
from patio_protocol.adapters import AdapterReport, AdapterState, UnloadRequest
from patio_protocol.client import SidecarClient
from patio_protocol.errors import RejectedError
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import StartSidecar, active, adapter_files, eventually, load_request

LOAD = "/v1/load_lora_adapter"


async def ready(client: SidecarClient) -> None:
    async def check() -> bool:
        return (await client.ready()).ready

    await eventually(check, "the sidecar is ready")


async def report_of(client: SidecarClient, name: str) -> AdapterReport:
    return next(report for report in (await client.adapters()).adapters if report.lora_name == name)


async def test_three_hundred_adapters_cost_few_polls_writes_and_steps(
    sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, writes = adapter_files(tmp_path / "a"), 0
    save = Store.save

    def counted(store: Store, desired: Desired) -> None:
        nonlocal writes
        writes += 1
        save(store, desired)

    monkeypatch.setattr(Store, "save", counted)
    required = tuple(load_request(f"a{number}", path, revision="1") for number in range(300))
    async with running_double() as double, sidecar(double, required_adapters=required) as client:
        began, revision = time.monotonic(), (await client.adapters()).revision
        await ready(client)
        # A machine that stands still for seconds lets a load time out, which is then sent again.
        assert 300 <= len(double.calls(LOAD)) < 2 * 300
        # One of each for every load, and the changes between, would be 300 and more. A slow machine has time for more.
        limit = max(150.0, 12.0 * (time.monotonic() - began))
        assert len(double.calls("/v1/models")) < limit
        assert writes < limit
        boot, _, before = revision.partition("-")
        assert int((await client.adapters()).revision.removeprefix(f"{boot}-")) - int(before) < limit
    assert all(spec.held is not None for spec in active(Store(tmp_path / "state.json").load()).values())


async def test_slow_loads_take_few_connections_and_no_readiness(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        await client.load(load_request("quick", path))
        double.fault(LOAD, delay=60)
        await asyncio.gather(*(client.load(load_request(f"a{number}", path, wait=0)) for number in range(130)))
        polls = len(double.calls("/v1/models"))

        async def is_polled_again() -> bool:
            assert (await client.ready()).ready
            return len(double.calls("/v1/models")) >= polls + 5

        await eventually(is_polled_again, "the engine is polled all the time")
        assert len(double.engine.core.faults.ordered) == 1
        for name in ("a129", "a99", "a13"):  # whether it was started or not: none of these is at the engine
            assert (await client.unload(UnloadRequest(lora_name=name))).unloaded
        assert (await client.unload(UnloadRequest(lora_name="quick"))).unloaded
        assert double.adapters == {}
        async with asyncio.timeout(DEADLINE):
            await client.status()


async def test_few_loads_are_at_the_engine_at_once(sidecar: StartSidecar, tmp_path: Path) -> None:
    path, at_once, peak = adapter_files(tmp_path / "a"), 0, 0
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        load = double.engine.core.faults.take

        def counted(method: str, at: str) -> Any:
            nonlocal at_once, peak
            if at == LOAD:
                at_once += 1
                peak = max(peak, at_once)
                asyncio.get_running_loop().call_later(0.05, end)
            return load(method, at)

        def end() -> None:
            nonlocal at_once
            at_once -= 1

        double.engine.core.faults.take = counted  # type: ignore[method-assign]
        double.fault(LOAD, delay=0.06)
        await asyncio.gather(*(client.load(load_request(f"a{number}", path)) for number in range(20)))
        assert 1 < peak <= LOADS_AT_ONCE


async def test_load_that_waits_is_dropped_when_it_is_unloaded(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        double.fault(LOAD, delay=1.0)
        for number in range(LOADS_AT_ONCE + 1):
            await client.load(load_request(f"a{number}", path, wait=0))
        last = f"a{LOADS_AT_ONCE}"
        assert (await client.unload(UnloadRequest(lora_name=last, wait=10))).unloaded
        await client.load(load_request("b", path))
        assert last not in {call.body["lora_name"] for call in double.calls(LOAD)}


def test_pod_takes_so_many_adapters_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patio.adapters.desired.MOST_ADAPTERS", 3)
    now = Desired()
    for name in ("a", "b", "c", "a"):
        after = with_load(now, load_request(name))
        assert isinstance(after, Desired)
        now = after
    rejection = with_load(now, load_request("d"))
    assert rejection == too_many("d")
    staging_order = load_request("d", None, source="s3://bucket/d", prepare=True)
    assert with_load(now, staging_order) == too_many("d")
    required = with_required(now, [load_request("a", revision="2"), load_request("e")])
    assert active(required).keys() == required.required_seen.keys() | {"b", "c"} == {"a", "b", "c"}
    assert MOST_ADAPTERS >= 1000


async def test_one_adapter_too_many_is_rejected_with_the_limit(
    sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patio.adapters.desired.MOST_ADAPTERS", 1)
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await client.load(load_request("a", path))
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("b", path))
        assert (raised.value.status, raised.value.code) == (409, "TooManyAdapters")
        await client.load(load_request("a", path, revision="2"))
        await client.unload(UnloadRequest(lora_name="a"))
        assert (await client.load(load_request("b", path))).state is AdapterState.LOADED


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
async def test_folder_that_can_not_be_used_is_a_fault_of_its_adapter(
    sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    good, bad = (adapter_files(tmp_path / "root" / name) for name in ("good", "bad"))
    pin = Downloads.pin

    async def failing_pin(downloads: Downloads, folder: str) -> bool:
        if folder == bad:
            raise error
        return await pin(downloads, folder)

    with monkeypatch.context() as patched:
        patched.setattr(Downloads, "pin", failing_pin)
        async with running_double() as double:
            for _ in range(2):  # what is wanted is stored, so the next start meets it again
                async with sidecar(double) as client:
                    await client.load(load_request("bad", None, source=f"pvc://{bad}", wait=0))
                    assert (await client.load(load_request("good", good))).state is AdapterState.LOADED
                    await ready(client)

                    async def is_reported() -> bool:
                        report = await report_of(client, "bad")
                        return report.reason == "FilesUnusable" and str(error.strerror) in report.message

                    await eventually(is_reported, "the report says why")


async def test_unexpected_error_fails_one_adapter(
    sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, load = adapter_files(tmp_path / "a"), Vllm.load

    async def failing_load(engine: Vllm, name: str, path: str) -> Any:
        if name == "odd":
            raise RecursionError("maximum recursion depth exceeded")
        return await load(engine, name, path)

    monkeypatch.setattr(Vllm, "load", failing_load)
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("odd", path))
        assert (raised.value.code, raised.value.status) == ("InternalError", 500)
        assert "RecursionError" in raised.value.message
        assert (await client.load(load_request("fine", path))).state is AdapterState.LOADED
        errors = [record for record in caplog.records if record.levelname == "ERROR"]
        assert [record.getMessage() for record in errors] == ["adapter load failed unexpectedly adapter=odd"]
        assert errors[0].exc_info is not None
        assert (await client.ready()).ready
        monkeypatch.setattr(Vllm, "load", load)
        assert (await client.load(load_request("odd", path))).state is AdapterState.LOADED, "a new order tries again"


async def test_unload_that_breaks_is_tried_again(
    sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, unload = adapter_files(tmp_path / "a"), Vllm.unload
    attempts = 0

    async def fail_first(engine: Vllm, name: str) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise OSError(24, "Too many open files")
        await unload(engine, name)

    monkeypatch.setattr(Vllm, "unload", fail_first)
    async with running_double() as double, sidecar(double) as client:
        await client.load(load_request("a", path))
        assert (await client.unload(UnloadRequest(lora_name="a"))).unloaded
        assert attempts == 2
        assert double.adapters == {}


async def test_order_not_stored_leaves_failed_adapter_alone(sidecar: StartSidecar, tmp_path: Path) -> None:
    bad = adapter_files(tmp_path / "bad", rank=64)
    async with running_double() as double, sidecar(double) as client:
        with pytest.raises(RejectedError):
            await client.load(load_request("bad", bad))
        before = await report_of(client, "bad")
        (tmp_path / "state.json").unlink()
        (tmp_path / "state.json").mkdir()
        with pytest.raises(RejectedError) as raised:
            await client.unload(UnloadRequest(lora_name="bad"))
        assert raised.value.code == "NotStored"
        polls = len(double.calls("/v1/models"))

        async def is_polled_again() -> bool:
            return len(double.calls("/v1/models")) >= polls + 3

        await eventually(is_polled_again, "three polls later")
        assert await report_of(client, "bad") == before
        assert len(double.calls(LOAD)) == 1


async def test_waiting_order_is_woken_by_its_own_adapter_only(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await ready(client)
        double.fault(LOAD, delay=0.3, times=1)
        slow = asyncio.create_task(client.load(load_request("slow", path)))
        for number in range(5):
            await client.load(load_request(f"a{number}", path))
        assert (await slow).state is AdapterState.LOADED

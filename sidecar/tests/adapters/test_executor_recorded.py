"""Every refusal that was recorded of a real engine, and every fault that passes, as the sidecar lives through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine_double import Double, running_double
from patio.adapters import progress
from patio_protocol.adapters import AdapterReport, AdapterState
from patio_protocol.client import SidecarClient
from patio_protocol.errors import RejectedError
from patio_testing.sidecar.builders import StartSidecar, adapter_files, eventually, load_request
from patio_testing.sidecar.recordings import sglang_answers, vllm_answers, words_of

LOAD = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}


async def report_of(client: SidecarClient, name: str) -> AdapterReport:
    return next(report for report in (await client.adapters()).adapters if report.lora_name == name)


async def polled_again(double: Double, number: int = 2) -> None:
    """Return when the sidecar has polled the engine some more times: chances to do what it must not."""
    polls_before = len(double.calls("/v1/models"))

    async def check() -> bool:
        return len(double.calls("/v1/models")) >= polls_before + number

    await eventually(check, f"{number} more polls")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_recorded_rejections_fail_with_message_after_one_load(
    engine: str, sidecar: StartSidecar, tmp_path: Path, recordings: Path
) -> None:
    answers = vllm_answers(recordings) if engine == "vllm" else sglang_answers(recordings)
    refusals = {
        (status, body)
        for path, status, body in answers
        # A name that is taken is no refusal of the adapter: the sidecar's list was stale.
        if path == LOAD[engine] and status != 200 and "already loaded" not in body
    }
    assert len(refusals) >= 7
    path = adapter_files(tmp_path / "a")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await eventually(lambda: _ready(client), "the sidecar is ready")
        for number, (status, body) in enumerate(sorted(refusals)):
            name = f"bad-{number}"
            double.fault(LOAD[engine], status=status, body=body)
            with pytest.raises(RejectedError) as raised:
                await client.load(load_request(name, path))
            assert not raised.value.retryable, body
            report = await report_of(client, name)
            assert (report.state, report.attempts, report.retryable) == (AdapterState.FAILED, 1, False)
            messages = [*words_of(body), "ENGINE_API_KEY", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"]
            assert any(message in report.message for message in messages), (report.message, body)
            double.clear_faults()
        calls = len(double.calls(LOAD[engine]))
        assert calls == len(refusals)
        await polled_again(double)
        assert len(double.calls(LOAD[engine])) == calls
        assert (await client.ready()).ready, "bad adapters hold nothing back"


async def test_rejection_by_one_gpu_is_loaded_once(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a", rank=64)
    async with running_double(one_process=True) as double, sidecar(double) as client:
        await eventually(lambda: _ready(client), "the sidecar is ready")
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", path))
        message = "Call to add_lora method failed: LoRA rank 64 is greater than max_lora_rank 16."
        assert (raised.value.code, raised.value.message) == ("AdapterRejected", message)
        await polled_again(double)
        assert len(double.calls(LOAD["vllm"])) == 1


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(("status", "body"), [(408, ""), (429, "slow down"), (502, ""), (503, "busy"), (500, "what?")])
async def test_every_retryable_fault_recovers(
    engine: str, status: int, body: str, sidecar: StartSidecar, tmp_path: Path
) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await eventually(lambda: _ready(client), "the sidecar is ready")
        double.fault(LOAD[engine], status=status, body=body, times=1)
        report = await client.load(load_request("a", path))
        assert (report.state, report.attempts) == (AdapterState.LOADED, 2)
        assert double.adapters == {"a": path}


async def test_failure_beyond_patience_is_reported_and_recovers(
    sidecar: StartSidecar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_PAUSE", 0.01)
    path = adapter_files(tmp_path / "a")
    async with running_double() as double, sidecar(double) as client:
        await eventually(lambda: _ready(client), "the sidecar is ready")
        double.fault(LOAD["vllm"], status=503, body="busy", times=progress.PATIENCE + 1)
        with pytest.raises(RejectedError) as raised:
            await client.load(load_request("a", path))
        assert (raised.value.retryable, raised.value.message) == (True, "busy")

        async def loaded() -> bool:
            return (await report_of(client, "a")).state is AdapterState.LOADED

        await eventually(loaded, "the adapter is loaded")


async def _ready(client: SidecarClient) -> bool:
    return (await client.ready()).ready

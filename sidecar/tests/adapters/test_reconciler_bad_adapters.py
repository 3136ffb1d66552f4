"""Adapters that can never work beside ten that do: what today's loaders get wrong, on both engines."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from engine_double import Double, running_double
from engine_double.samples import write_adapter
from patio_protocol.adapters import AdapterReport, AdapterState
from patio_protocol.client import SidecarClient
from patio_testing.sidecar.builders import StartSidecar, eventually, load_request

LOAD = {"vllm": "/v1/load_lora_adapter", "sglang": "/load_lora_adapter"}
GOOD = [f"good-{number}" for number in range(10)]


def write_bad_adapters(engine: str, folder: Path) -> dict[str, tuple[str, str]]:
    """Write the adapters that the recordings saw refused; return path and a word of the engine's, by name."""
    adapters = {
        "rank": (str(write_adapter(folder / "rank", rank=64)), "64"),
        "dora": (str(write_adapter(folder / "dora", dora=True)), "DoRA"),
        "empty": (str(write_adapter(folder / "empty", weights=False)), "tensors" if engine == "vllm" else "weights"),
        "cut": (str(write_adapter(folder / "cut", truncated=True)), "incomplete metadata"),
        "json": (str(write_adapter(folder / "json", config="{not json")), "double quotes"),
        "nowhere": (str(folder / "nowhere"), "No adapter found" if engine == "vllm" else "does not exist"),
    }
    if engine == "vllm":
        adapters["tiny"] = (str(write_adapter(folder / "tiny")), "served base model")
    return adapters


async def reports(client: SidecarClient) -> dict[str, AdapterReport]:
    return {report.lora_name: report for report in (await client.adapters()).adapters}


async def all_settled(client: SidecarClient, number: int) -> dict[str, AdapterReport]:
    async def check() -> dict[str, AdapterReport] | None:
        adapters = await reports(client)
        settled = [report for report in adapters.values() if report.state in (AdapterState.LOADED, AdapterState.FAILED)]
        return adapters if len(settled) == number else None

    adapters: dict[str, AdapterReport] = await eventually(check, "every adapter is settled")
    return adapters


def names_loaded(double: Double, engine: str) -> list[str]:
    return [call.body["lora_name"] for call in double.calls(LOAD[engine])]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_ten_good_adapters_load_beside_bad_adapters(
    engine: str, sidecar: StartSidecar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bad = write_bad_adapters(engine, tmp_path)
    # The bad ones come first, and sort before the good ones.
    required = [load_request(name, path) for name, (path, _) in bad.items()]
    required += [load_request(name, str(write_adapter(tmp_path / name))) for name in GOOD]
    async with running_double(engine=engine) as double, sidecar(double, required_adapters=tuple(required)) as client:
        adapters = await all_settled(client, len(required))
        assert {name for name, adapter in adapters.items() if adapter.state is AdapterState.LOADED} == set(GOOD)
        assert double.adapters.keys() == set(GOOD)
        assert (await client.ready()).ready, "bad adapters hold no pod back"
        for name, (_, message) in bad.items():
            report = adapters[name]
            assert (report.state, report.retryable, report.attempts) == (AdapterState.FAILED, False, 1), report
            assert message in report.message, report
        polls = len(double.calls("/v1/models"))

        async def is_polled_again() -> bool:
            return len(double.calls("/v1/models")) >= polls + 4

        await eventually(is_polled_again, "four polls later")
        assert sorted(names_loaded(double, engine)) == sorted([*bad, *GOOD]), "each was asked for once"
        for name in bad:
            lines = [
                record.getMessage() for record in caplog.records if f"not loaded adapter={name} " in record.getMessage()
            ]
            assert len(lines) == 1, lines
        revision = (await client.adapters()).revision
        assert (await client.adapters(revision, wait=1)).revision == revision, "nothing changes any more"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_good_adapters_do_not_wait_for_slow_bad_one(engine: str, sidecar: StartSidecar, tmp_path: Path) -> None:
    bad = write_adapter(tmp_path / "bad", rank=64)
    async with running_double(engine=engine) as double, sidecar(double) as client:

        async def ready() -> bool:
            return (await client.ready()).ready

        await eventually(ready, "the sidecar is ready")
        double.fault(LOAD[engine], delay=60, times=1)
        await client.load(load_request("bad", str(bad), wait=0))

        async def is_loading() -> bool:
            return not double.engine.core.faults.ordered

        await eventually(is_loading, "the bad adapter is being loaded")
        for name in GOOD:
            report = await client.load(load_request(name, str(write_adapter(tmp_path / name))))
            assert report.state is AdapterState.LOADED
        assert (await reports(client))["bad"].state is AdapterState.LOADING

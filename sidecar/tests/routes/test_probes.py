"""What the sidecar serves of itself: readiness, the engine, adapters; and counters that are there from the start."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine_double import running_double
from patio_protocol.adapters import UnloadRequest
from patio_protocol.client import SidecarClient
from patio_testing.sidecar.builders import StartSidecar, adapter_files, eventually, load_request

NOWHERE = "http://127.0.0.1:1"
ENGINES = pytest.mark.parametrize("engine", ["vllm", "sglang"])
Key = tuple[str, frozenset[tuple[str, str]]]


async def own(client: SidecarClient) -> dict[Key, float]:
    """Return the sidecar's own series, by name without the prefix and by labels."""
    text = (await client._http.get("http://sidecar/metrics")).text
    return {
        key(sample.name.removeprefix("patio:"), **sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("patio:")
    }


def key(name: str, **labels: str) -> Key:
    return name, frozenset(labels.items())


async def is_ready(client: SidecarClient) -> bool:
    return (await client.ready()).ready


async def test_readiness_is_in_the_metrics_while_the_engine_is_down(sidecar: StartSidecar) -> None:
    async with sidecar(NOWHERE) as client:
        found = await own(client)
        assert (found[key("ready")], found[key("waiting_for", reason="engine")]) == (0, 1)
        assert found[key("waiting_for", reason="drain")] == found[key("waiting_for", reason="adapter")] == 0
        assert not [name for name, _ in found if name in ("engine_info", "engine_start_seconds")]
        assert found[key("engine_restarts_total")] == 0


@ENGINES
async def test_readiness_waits_for_required_adapters_by_number(
    engine: str, sidecar: StartSidecar, tmp_path: Path
) -> None:
    required = tuple(load_request(name, adapter_files(tmp_path / name)) for name in ("a", "b"))
    path = "/v1/load_lora_adapter" if engine == "vllm" else "/load_lora_adapter"
    async with running_double(engine=engine) as double:
        double.fault(path, status=503, body="{}")
        async with sidecar(double, required_adapters=required) as client:

            async def engine_is_ready() -> bool:
                return (await own(client))[key("waiting_for", reason="engine")] == 0

            await eventually(engine_is_ready, "the engine is ready")
            found = await own(client)
            assert (found[key("ready")], found[key("waiting_for", reason="adapter")]) == (0, 2)
            double.clear_faults()
            await eventually(lambda: is_ready(client), "ready")
            found = await own(client)
            assert (found[key("ready")], found[key("waiting_for", reason="adapter")]) == (1, 0)


@ENGINES
async def test_model_of_the_engine_is_known(engine: str, sidecar: StartSidecar) -> None:
    async with running_double(engine=engine) as double, sidecar(double) as client:
        await eventually(lambda: is_ready(client), "ready")
        assert (await own(client))[key("engine_info", model_name="tiny", inference_engine=engine)] == 1


async def test_adapters_say_revision_source_and_since_when(sidecar: StartSidecar, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double(engine="vllm") as double, sidecar(double) as client:
        await eventually(lambda: is_ready(client), "ready")
        began = time.time()
        await client.load(load_request("a", path, revision="r1"))
        await client.load(load_request("b", path, revision="x" * 128))
        await client.load(load_request("c", path))
        found = await own(client)
        info = {dict(labels)["adapter"]: dict(labels) for name, labels in found if name == "lora_adapter_info"}
        assert info["a"] == {"adapter": "a", "revision": "r1", "source": "path", "required": "false"}
        assert re.fullmatch("[0-9a-f]{12}", info["b"]["revision"])
        assert info["c"]["revision"] == ""
        since = found[key("lora_adapter_state_timestamp_seconds", adapter="a", state="Loaded")]
        assert began <= since <= time.time()
        await client.unload(UnloadRequest(lora_name="a"))
        assert "a" not in {dict(labels).get("adapter") for _, labels in await own(client)}


async def test_counters_are_zero_from_the_start(sidecar: StartSidecar) -> None:
    async with sidecar(NOWHERE, scrape_engine=False) as client:
        found = {name: value for name, value in (await own(client)).items() if name[0].endswith("_total")}
    assert set(found.values()) == {0.0}
    for expected in (
        key("engine_scrape_errors_total", reason="too_large"),
        key("lora_operations_total", operation="load", outcome="ok", reason=""),
        key("lora_operations_total", operation="reload", outcome="permanent", reason="AdapterRejected"),
        key("download_bytes_total", source="hf"),
        key("download_failures_total", source="s3", reason="NoSpace"),
        key("access_denials_total", code="UnknownKey"),
        key("drains_total", outcome="requests"),
        key("engine_restarts_total"),
    ):
        assert expected in found
    assert key("download_failures_total", source="file", reason="SourceUnreachable") not in found
    assert len(found) < 150, "every pod has them"

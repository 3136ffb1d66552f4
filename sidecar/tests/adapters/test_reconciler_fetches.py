"""Adapters whose files are fetched: from the order, through the download, to the engine's own list."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_double import running_double
from patio.downloads.settings import DownloadSettings
from patio_protocol.adapters import LoadRequest, UnloadRequest
from patio_protocol.client import SidecarClient
from patio_protocol.errors import RejectedError
from patio_testing.sidecar.builders import StartSidecar, adapter_files, eventually
from patio_testing.sidecar.download_builders import adapter, contents, is_there, order, put, served, settle
from patio_testing.sidecar.download_sources import TOKEN, Proxy, S3Server, running_hub, workers

NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_adapter_in_a_bucket_is_loaded(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, tmp_path: Path, engine: str
) -> None:
    source = put(s3, f"loaded-{engine}", adapter(tmp_path / "a"))
    async with running_double(engine=engine) as double, sidecar(double, downloads=downloads) as client:
        report = await client.load(order("sql", source))
        assert (report.state, report.source) == ("Loaded", source)
        assert str(report.lora_path).startswith(str(downloads.root))
        assert (await served(double))["sql"] == report.lora_path
        repeated = await client.load(order("sql", source))
        assert repeated.lora_path == report.lora_path
        assert len((await client.downloads()).downloads) == 1


async def test_download_does_not_wait_for_the_engine(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, tmp_path: Path
) -> None:
    source = put(s3, "early", adapter(tmp_path / "a"))
    async with sidecar(NOWHERE, downloads=downloads) as client:
        report = await client.load(order("sql", source, async_download=True))
        assert report.state in ("Pending", "Downloading")
        report = await settle(client, "sql", "Pending")

        async def is_fetched() -> bool:
            return (await settle(client, "sql", "Pending")).lora_path is not None

        await eventually(is_fetched, "the files are there")


async def test_old_weights_answer_until_new_ones_are_fetched(
    sidecar: StartSidecar,
    s3: S3Server,
    downloads: DownloadSettings,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("patio.adapters.engine_monitor.LINGER", 2.0)
    source = put(s3, "swapped", adapter(tmp_path / "a"))
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        first = await client.load(order("sql", source, revision="1"))
        put(s3, "swapped", adapter(tmp_path / "b", rank=4, padding=2_000_000))
        proxy.rate = 1_000_000
        await client.load(order("sql", source, revision="2", wait=0))
        report = await settle(client, "sql", "Downloading")
        assert report.message
        assert (await served(double))["sql"] == first.lora_path
        assert (await client.ready()).ready
        proxy.rate = None
        second = await settle(client, "sql", "Loaded")
        assert second.lora_path != first.lora_path
        assert (await served(double))["sql"] == second.lora_path
        assert is_there(first.lora_path), "running requests may have to read it once more"

        async def is_removed() -> bool:
            return not is_there(first.lora_path)

        await eventually(is_removed, "the older revision is removed")


async def test_slow_download_delays_no_other_adapter(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, proxy: Proxy, tmp_path: Path
) -> None:
    slow = put(s3, "slow", adapter(tmp_path / "a", padding=5_000_000))
    quick = put(s3, "quick", adapter(tmp_path / "b"))
    proxy.rate = 100_000
    config = json.dumps({"endpoint": s3.url})
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        await client.load(order("slow", slow, wait=0))
        assert (await client.load(order("quick", quick, config=config))).state == "Loaded"
        assert (await client.load(LoadRequest(lora_name="local", lora_path=str(tmp_path / "b")))).state == "Loaded"
        assert (await settle(client, "slow", "Downloading")).lora_path is None
        await client.unload(UnloadRequest(lora_name="slow"))

        async def is_cancelled() -> bool:
            return not workers()

        await eventually(is_cancelled, "the download of what nobody wants ends")
        assert await served(double) == {
            "quick": (await settle(client, "quick", "Loaded")).lora_path,
            "local": str(tmp_path / "b"),
        }


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("s3://adapters/nothing", 404, "SourceNotFound"),
        ("s3://adapters/pickles", 422, "SourceRejected"),
        ("file:///nowhere/at/all", 404, "AdapterNotFound"),
        ("pvc:///etc", 400, "InvalidSource"),
    ],
)
async def test_what_can_not_be_fetched_is_failed_with_its_reason(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, source: str, status: int, code: str
) -> None:
    put(s3, "pickles", {"adapter_model.bin": b"x"})
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        await eventually(lambda: ready(client), "ready")
        with pytest.raises(RejectedError) as raised:
            await client.load(order("sql", source))
        assert (raised.value.status, raised.value.code, raised.value.retryable) == (status, code, False)
        report = await settle(client, "sql", "Failed")
        assert report.reason == code


async def test_source_that_comes_back_is_fetched_after_its_report(
    sidecar: StartSidecar,
    s3: S3Server,
    downloads: DownloadSettings,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("patio.downloads.downloads.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("patio.downloads.downloads.ATTEMPTS", 2)
    source = put(s3, "back", adapter(tmp_path / "a"))
    proxy.refuse = True
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        await client.load(order("sql", source, wait=0))

        async def reported() -> bool:
            return "SourceUnreachable" in {report.reason for report in (await client.adapters()).adapters}

        await eventually(reported, "the fault is shown")
        proxy.refuse = False
        await settle(client, "sql", "Loaded")


async def test_file_source_is_a_path_and_a_volume_is_used_in_place(
    sidecar: StartSidecar, downloads: DownloadSettings, tmp_path: Path
) -> None:
    elsewhere = adapter_files(tmp_path / "elsewhere" / "a")
    volume = adapter_files(tmp_path / "models" / "b")
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        from_path = await client.load(order("one", f"file://{elsewhere}"))
        from_volume = await client.load(order("two", "pvc://b"))
        copied = await client.load(order("three", f"file://{volume}", output_dir=str(tmp_path / "models" / "c")))
        assert (from_path.lora_path, from_path.source) == (elsewhere, None)
        assert from_volume.lora_path == volume
        assert str(copied.lora_path).startswith(f"{tmp_path}/models/c/.patio/")
        assert await served(double) == {"one": elsewhere, "two": volume, "three": copied.lora_path}
        # Nothing of ours beside what is not ours.
        assert names(tmp_path / "models" / "b") == {"adapter_config.json", "adapter_model.safetensors"}
        assert names(tmp_path / "models") == {"b", "c"}


async def test_files_that_vanish_before_a_load_are_fetched_again(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, tmp_path: Path
) -> None:
    source = put(s3, "vanishes", adapter(tmp_path / "a"))
    async with sidecar(NOWHERE, downloads=downloads) as client:
        await client.load(order("sql", source, wait=0))

        async def fetched_folder() -> str | None:
            return (await client.adapters()).adapters[0].lora_path

        folder = await eventually(fetched_folder, "the files are there")
    remove(Path(folder))
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        report = await settle(client, "sql", "Loaded")
        assert report.lora_path == folder
        assert (await served(double))["sql"] == folder


async def test_credentials_are_in_no_file_and_absence_is_reported(
    sidecar: StartSidecar, downloads: DownloadSettings, tmp_path: Path
) -> None:
    files = adapter(tmp_path / "a")
    config = {"hf_token": TOKEN}
    with running_hub(files, token=TOKEN) as hub, running_hub(files, token=TOKEN, repository="team/second") as second:
        fetched = order("sql", "team/adapter", config=json.dumps({**config, "hf_endpoint": hub.url}))
        waiting = order("two", "team/second", config=json.dumps({**config, "hf_endpoint": second.url}), wait=0)
        second.faults.extend([(503, {})] * 1000)
        async with running_double() as double, sidecar(double, downloads=downloads) as client:
            await client.load(fetched)
            await client.load(waiting)
            await settle(client, "two", "Downloading")
            answers = [(await client.adapters()).model_dump_json(), (await client.downloads()).model_dump_json()]
            assert TOKEN not in "".join(answers)
        files_on_disk = contents(tmp_path)
        assert files_on_disk
        assert not [name for name, body in files_on_disk.items() if TOKEN.encode() in body]
        second.faults.clear()
        async with running_double() as double, sidecar(double, downloads=downloads) as client:
            assert (await settle(client, "sql", "Loaded")).lora_path
            report = await settle(client, "two", "Failed")
            assert (report.reason, report.retryable) == ("CredentialsMissing", True)
            assert "hf_token" in report.message
            await client.load(waiting.model_copy(update={"wait": 30.0}))
            await settle(client, "two", "Loaded")


async def test_adapter_named_at_admission_is_fetched_and_gates_pod(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, proxy: Proxy, tmp_path: Path
) -> None:
    source = put(s3, "required", adapter(tmp_path / "a", padding=1_000_000))
    proxy.rate = 1_000_000
    required = (order("sql", source, owner="LoraAdapter/x/sql"),)
    async with (
        running_double() as double,
        sidecar(double, downloads=downloads, required_adapters=required) as client,
    ):
        await settle(client, "sql", "Downloading")
        waiting = await client.ready()
        assert not waiting.ready
        assert "Downloading" in "".join(waiting.waiting_for)
        proxy.rate = None
        await settle(client, "sql", "Loaded")
        assert (await client.ready()).ready


async def test_routes_of_downloads(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, proxy: Proxy, tmp_path: Path
) -> None:
    put(s3, "routes", adapter(tmp_path / "a", padding=3_000_000))
    async with sidecar(NOWHERE, downloads=downloads) as client, caller(client) as http:
        body = {"source": "s3://adapters/routes", "output_dir": str(tmp_path / "models" / "r"), "max_workers": 2}
        proxy.rate = 2_000_000
        started = await http.post("/v1/download_model", json={**body, "async_download": True})
        assert started.status_code == 202
        download_id = started.json()["id"]

        async def has_progress() -> bool:
            report = await client.download_report(download_id)
            return report.bytes_total is not None and 0 < report.bytes_done < report.bytes_total

        await eventually(has_progress, "it shows its progress")
        assert [report.id for report in (await client.downloads()).downloads] == [download_id]
        proxy.rate = None
        response = await http.post("/v1/download_model", json=body)
        assert (response.status_code, response.json()["state"], response.json()["id"]) == (
            200,
            "Succeeded",
            download_id,
        )
        assert response.json()["path"] == str(tmp_path / "models" / "r")
        assert is_there(str(tmp_path / "models" / "r" / ".patio"))
        assert 'patio:download_bytes_total{source="s3"} 3' in (await http.get("/metrics")).text
        json_headers = {"content-type": "application/json"}
        assert (await http.delete(f"/v1/downloads/{download_id}")).status_code == 401, "a page could send it"
        deleted = await http.delete(f"/v1/downloads/{download_id}", headers=json_headers)
        assert (deleted.status_code, deleted.json()["state"]) == (200, "Succeeded")
        for method in ("GET", "DELETE"):
            missing = await http.request(method, f"/v1/downloads/{download_id}", headers=json_headers)
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "NotFound")


async def test_stopped_download_is_reported_to_waiting_callers(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, proxy: Proxy, tmp_path: Path
) -> None:
    source = put(s3, "stopped", adapter(tmp_path / "a", padding=3_000_000))
    proxy.rate = 100_000
    async with sidecar(NOWHERE, downloads=downloads) as client, caller(client) as http:
        waiting = asyncio.create_task(http.post("/v1/download_model", json={"source": source}))

        async def running() -> str | None:
            return next((report.id for report in (await client.downloads()).downloads if workers()), None)

        download_id = await eventually(running, "it runs")
        stopped = await client.cancel_download(download_id)
        assert stopped.state == "Cancelled"
        answer = await waiting
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "Cancelled")
        await client.load(order("sql", source, wait=0))
        download_id = await eventually(running, "it runs for an adapter")
        with pytest.raises(RejectedError, match="Unload the adapter"):
            await client.cancel_download(download_id)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "InvalidRequest"),
        ({"source": "s3://b/../../etc"}, 400, "InvalidRequest"),
        ({"source": "o/r", "config": {"hf_token": "sekret"}}, 400, "InvalidRequest"),
        ({"source": "o/r", "config": '{"token": "sekret"}'}, 400, "InvalidRequest"),
        ({"source": "o/r", "output_dir": "/etc/patio"}, 400, "InvalidSource"),
        ({"source": "pvc://nothing"}, 404, "SourceNotFound"),
        ({"source": "s3://adapters/nothing"}, 404, "SourceNotFound"),
    ],
)
async def test_wrong_orders_have_the_one_error_shape_and_no_secret(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, body: dict[str, Any], status: int, code: str
) -> None:
    put(s3, "there", {"x.json": b"{}"})
    async with sidecar(NOWHERE, downloads=downloads) as client, caller(client) as http:
        answer = await http.post("/v1/download_model", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert "sekret" not in answer.text


async def ready(client: SidecarClient) -> bool:
    return (await client.ready()).ready


@contextlib.asynccontextmanager
async def caller(client: SidecarClient) -> AsyncIterator[httpx.AsyncClient]:
    """Return the test's client of the application, with its base URL."""
    http = client._http
    http.base_url = httpx.URL("http://sidecar")
    http.timeout = httpx.Timeout(60)
    yield http


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()

"""Files fetched ahead of a switch, over the API: held, kept over restarts, taken without asking the source again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from engine_double import running_double
from patio.downloads.settings import DownloadSettings
from patio_protocol.adapters import PreparedReport, UnloadRequest
from patio_protocol.client import SidecarClient
from patio_protocol.errors import RejectedError
from patio_testing.sidecar.builders import StartSidecar, eventually
from patio_testing.sidecar.download_builders import adapter, contents, is_there, order, put, served, settle
from patio_testing.sidecar.download_sources import TOKEN, Proxy, S3Server, running_hub, workers

OWNER = "LoraAdapter/team-a/sql"
NOWHERE = "http://127.0.0.1:1"


async def prepared(client: SidecarClient, name: str, state: str) -> PreparedReport:
    async def check() -> PreparedReport | None:
        prepared_report = {report.lora_name: report.prepared for report in (await client.adapters()).adapters}.get(name)
        return prepared_report if prepared_report is not None and prepared_report.state == state else None

    prepared_report: PreparedReport = await eventually(check, f"{name} is {state} ahead")
    return prepared_report


async def test_switch_to_what_was_prepared_asks_no_source(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, proxy: Proxy, tmp_path: Path
) -> None:
    old, new = put(s3, "prepare-1", adapter(tmp_path / "1")), put(s3, "prepare-2", adapter(tmp_path / "2", rank=4))
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        first = await client.load(order("sql", old, revision="1", owner=OWNER))
        report = await client.load(order("sql", new, revision="2", owner=OWNER, prepare=True))
        assert report.prepared is not None
        assert (report.prepared.state, report.prepared.revision) == ("Prepared", "2")
        assert (report.state, report.revision, report.held_revision, report.source) == ("Loaded", "1", "1", old)
        assert await served(double) == {"sql": first.lora_path}
        assert (await client.ready()).ready

        async def are_on_disk() -> bool:
            return (await client.adapters()).on_disk == (old, new)

        await eventually(are_on_disk, "both are on disk")
        proxy.refuse = True
        report = await client.load(order("sql", new, revision="2", owner=OWNER))
        assert (report.state, report.held_revision, report.prepared, report.source) == ("Loaded", "2", None, new)
        assert await served(double) == {"sql": report.lora_path}


async def test_staged_files_are_pinned_and_survive_sidecar_restart(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, proxy: Proxy, tmp_path: Path
) -> None:
    old, new = put(s3, "held-1", adapter(tmp_path / "1")), put(s3, "held-2", adapter(tmp_path / "2"))
    async with running_double() as double:
        async with sidecar(double, downloads=downloads) as client:
            await client.load(order("sql", old, revision="1"))
            await client.load(order("sql", new, revision="2", prepare=True))
        proxy.refuse = True
        async with sidecar(double, downloads=downloads) as client:
            assert (await prepared(client, "sql", "Prepared")).revision == "2"
            assert (await client.load(order("sql", new, revision="2"))).held_revision == "2"


async def test_staged_files_removed_meanwhile_are_fetched_again(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, tmp_path: Path
) -> None:
    source = put(s3, "removed", adapter(tmp_path / "1"))
    async with sidecar(NOWHERE, downloads=downloads) as client:
        staging = await client.load(order("sql", source, prepare=True))
        assert (staging.state, staging.reason, staging.owner) == ("Pending", "Prepared", None)
    (folder,) = [path.parent for path in downloads.root.rglob("adapter_config.json")]
    folder.rename(tmp_path / "away")
    async with sidecar(NOWHERE, downloads=downloads) as client:
        await prepared(client, "sql", "Prepared")
        assert is_there(str(folder))


async def test_switch_before_all_is_fetched_resumes_the_download(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, proxy: Proxy, tmp_path: Path
) -> None:
    source = put(s3, "begun", adapter(tmp_path / "1", padding=2_000_000))
    proxy.rate = 1_000_000
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        await client.load(order("sql", source, prepare=True, wait=0))
        await prepared(client, "sql", "Downloading")
        switched = await client.load(order("sql", source, wait=0))
        assert (switched.state, switched.prepared) == ("Downloading", None)
        proxy.rate = None
        await settle(client, "sql", "Loaded")
        (download,) = (await client.downloads()).downloads
        assert (download.state, download.attempts) == ("Succeeded", 1)


@pytest.mark.parametrize("method", ["unload", "another"])
async def test_prepare_that_is_dropped_ends_its_download(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, proxy: Proxy, tmp_path: Path, method: str
) -> None:
    slow = put(s3, "dropped", adapter(tmp_path / "1", padding=5_000_000))
    proxy.rate = 100_000
    local = tmp_path / "models" / "two"
    async with sidecar(NOWHERE, downloads=downloads) as client:
        await client.load(order("sql", slow, prepare=True, wait=0))
        await prepared(client, "sql", "Downloading")
        if method == "unload":
            assert (await client.unload(UnloadRequest(lora_name="sql"))).unloaded
            assert (await client.adapters()).adapters == ()
        else:
            adapter(local)
            await client.load(order("sql", "pvc://two", prepare=True))

        async def is_cancelled() -> bool:
            return not workers()

        await eventually(is_cancelled, "the download of what nobody wants ends")


async def test_missing_source_fails_staging_and_old_weights_answer(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, tmp_path: Path
) -> None:
    old = put(s3, "stays", adapter(tmp_path / "1"))
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        await client.load(order("sql", old, revision="1"))
        with pytest.raises(RejectedError) as raised:
            await client.load(order("sql", "s3://adapters/nothing", revision="2", prepare=True))
        assert (raised.value.status, raised.value.code, raised.value.retryable) == (404, "SourceNotFound", False)
        report = await settle(client, "sql", "Loaded")
        assert report.prepared is not None
        assert (report.prepared.state, report.prepared.reason) == ("Failed", "SourceNotFound")
        assert (report.held_revision, (await client.ready()).ready) == ("1", True)


async def test_staging_an_undesired_adapter_gates_and_loads_nothing(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, tmp_path: Path
) -> None:
    source = put(s3, "unwanted", adapter(tmp_path / "1"))
    async with running_double() as double, sidecar(double, downloads=downloads) as client:
        report = await client.load(order("sql", source, owner=OWNER, prepare=True))
        assert (report.state, report.reason, report.owner, report.lora_path) == ("Pending", "Prepared", OWNER, None)
        assert (await client.ready()).ready
        assert await served(double) == {}
        with pytest.raises(RejectedError) as raised:
            await client.load(order("sql", source))
        assert (raised.value.status, raised.value.code) == (409, "Conflict")
        assert (await client.load(order("sql", source, owner=OWNER))).state == "Loaded"


async def test_required_adapter_is_loaded_when_its_credentials_come(
    sidecar: StartSidecar, downloads: DownloadSettings, tmp_path: Path
) -> None:
    with running_hub(adapter(tmp_path / "a"), token=TOKEN) as hub:
        config = {"hf_endpoint": hub.url}
        awaited = order("sql", "team/adapter", owner=OWNER, revision="1", config=json.dumps(config))
        awaited = awaited.model_copy(update={"expects_credentials": True})
        with_credentials = order(
            "sql",
            "team/adapter",
            owner=OWNER,
            revision="1",
            config=json.dumps({**config, "hf_token": TOKEN}),
            credentials_revision="7",
        )
        async with running_double() as double:
            async with sidecar(double, downloads=downloads, required_adapters=(awaited,)) as client:
                report = await settle(client, "sql", "Pending")
                assert (report.reason, report.required, report.retryable) == ("CredentialsMissing", True, True)

                async def waits() -> bool:
                    return "credentials" in str((await client.ready()).waiting_for)

                await eventually(waits, "the pod waits for its credentials")
                assert (await client.downloads()).downloads == ()
                report = await client.load(with_credentials)
                assert (report.state, report.credentials_revision) == ("Loaded", "7")
                assert report.required
                assert (await client.ready()).ready
            # What is on disk needs no credentials; what is not waits for its owner, who orders again.
            async with sidecar(double, downloads=downloads, required_adapters=(awaited,)) as client:
                report = await settle(client, "sql", "Loaded")
                assert report.credentials_revision == "7"
        (folder,) = [path.parent for path in downloads.root.rglob("adapter_config.json")]
        folder.rename(tmp_path / "away")
        async with (
            running_double() as double,
            sidecar(double, downloads=downloads, required_adapters=(awaited,)) as client,
        ):

            async def is_missing() -> bool:
                return (await settle(client, "sql", "Pending")).reason == "CredentialsMissing"

            await eventually(is_missing, "its credentials are missing")
            assert (await client.load(with_credentials)).state == "Loaded"
    assert not [name for name, body in contents(tmp_path).items() if TOKEN.encode() in body]


async def test_sources_on_disk_are_known_after_restart_until_removed(
    sidecar: StartSidecar, s3: S3Server, downloads: DownloadSettings, tmp_path: Path
) -> None:
    sources = sorted(put(s3, f"known-{number}", adapter(tmp_path / str(number))) for number in range(3))
    async with sidecar(NOWHERE, downloads=downloads) as client:
        for source in sources:
            await client.load(order(source.rpartition("/")[2], source, prepare=True))
            await client.unload(UnloadRequest(lora_name=source.rpartition("/")[2]))

    async def wait_until_on_disk(client: SidecarClient, expected: list[str]) -> None:
        async def check() -> bool:
            return list((await client.adapters()).on_disk) == expected

        await eventually(check, f"{expected} is on disk")

    async with sidecar(NOWHERE, downloads=downloads) as client:
        await wait_until_on_disk(client, sources)
        polled = (await client.adapters()).revision
        folder = next(path.parent for path in downloads.root.rglob("adapter_config.json") if "known-1" in str(path))
        folder.rename(tmp_path / "away")
        # Whoever shares the disk removed it: noticed with the next change that is made from here.
        changed = asyncio.create_task(client.adapters(polled, wait=20))
        await client.load(order("other", sources[0], prepare=True))
        await changed
        await wait_until_on_disk(client, [sources[0], sources[2]])

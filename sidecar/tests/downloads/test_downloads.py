"""Downloads end to end: real workers, a real S3 server, a double of the Hub, faults and deaths in between."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from patio.downloads.cache_keys import key_of
from patio.downloads.downloads import WORKERS, Downloads
from patio.downloads.errors import DownloadError
from patio.downloads.locks import locked
from patio.downloads.metrics import DownloadMetrics
from patio.downloads.pins import Pins, is_there
from patio.downloads.s3 import S3
from patio.downloads.settings import DownloadSettings
from patio_protocol.downloads import DownloadReason, DownloadReport, DownloadRequest, DownloadState
from patio_protocol.sources import parse_source, read_config
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import eventually
from patio_testing.sidecar.download_sources import (
    ACCESS_KEY,
    SECRET_KEY,
    TOKEN,
    Proxy,
    S3Server,
    below,
    content,
    kill_worker,
    proxy_to,
    running_hub,
    workers,
)

MEGABYTE = 1024 * 1024
SIZE = int(os.environ.get("PATIO_TEST_DOWNLOAD_MB", "64")) * MEGABYTE
"""Of the download that is killed twice."""

ADAPTER = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": content(300_000), "README.md": b"# sql"}

Start = Callable[..., AbstractAsyncContextManager[Downloads]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start downloads: `async with start() as downloads`. Pauses are short."""
    monkeypatch.setattr("patio.downloads.downloads.FIRST_PAUSE", 0.02)

    @contextlib.asynccontextmanager
    async def run_downloads(registry: CollectorRegistry | None = None, **settings: Any) -> AsyncIterator[Downloads]:
        ids = itertools.count()
        settings = {"root": tmp_path / "root", "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, **settings}
        downloads = Downloads(
            DownloadSettings(**settings),
            DownloadMetrics(registry or CollectorRegistry(), lambda: downloads.reports(), lambda: downloads.disk_usage),
            random.Random(0),
            os.environ,
            new_id=lambda: f"d{next(ids)}",
        )
        running = asyncio.create_task(downloads.run())
        await asyncio.sleep(0)
        try:
            yield downloads
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            assert workers() == []

    return run_downloads


def request(source: str, *, output_dir: Path | None = None, **config: str) -> DownloadRequest:
    return DownloadRequest(
        source=source,
        output_dir=None if output_dir is None else str(output_dir),
        config=json.dumps(config) if config else None,
    )


async def fetch(downloads: Downloads, order: DownloadRequest) -> DownloadReport:
    """Fetch as an adapter does."""
    source, config = parse_source(order.source), read_config(order.config)
    return await downloads.fetch(source, config, order.output_dir, order.max_workers)


async def fetched(downloads: Downloads, order: DownloadRequest) -> DownloadReport:
    async with asyncio.timeout(DEADLINE):
        report = await fetch(downloads, order)
    assert report.error is None, report
    return report


async def failed(downloads: Downloads, order: DownloadRequest) -> DownloadReport:
    async with asyncio.timeout(DEADLINE):
        report = await fetch(downloads, order)
    assert report.error is not None, report
    assert report.state is DownloadState.FAILED
    return report


def files(folder: str | None) -> dict[str, bytes]:
    assert folder is not None
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and ".patio" not in path.relative_to(folder).parts
    }


def exists(folder: str | None) -> bool:
    return folder is not None and Path(folder).is_dir()


async def test_folder_of_a_bucket_lands_under_its_revision(start: Start, s3: S3Server, tmp_path: Path) -> None:
    s3.put("lands", {f"loras/sql/{name}": body for name, body in ADAPTER.items()} | {"loras/sqlite/x.json": b"{}"})
    async with start(endpoint=s3.url) as downloads:
        report = await fetched(downloads, request("s3://lands/loras/sql"))
        assert files(report.folder) == ADAPTER
        assert report.folder == report.path
        assert Path(str(report.folder)).parent.parent == tmp_path / "root"
        assert (report.files_done, report.files_total) == (3, 3)
        assert report.bytes_done == report.bytes_total == report.bytes_fetched == sum(map(len, ADAPTER.values()))
        repeated = await fetched(downloads, request("s3://lands/loras/sql"))
        assert (repeated.folder, repeated.bytes_fetched, repeated.id == report.id) == (report.folder, 0, False)


async def test_download_killed_twice_fetches_each_byte_about_once(start: Start, s3: S3Server, proxy: Proxy) -> None:
    big = content(SIZE, seed=7)
    s3.put("killed", {"m/model.safetensors": big, "m/config.json": b"{}"})
    async with start(endpoint=proxy.url) as downloads:
        proxy.rate = SIZE / 3
        report = downloads.order(request("s3://killed/m"))

        def bytes_done() -> int:
            return (downloads.report(report.id) or report).bytes_done

        for share in (0.3, 0.6):

            async def has_share(share: float = share) -> bool:
                return bytes_done() > share * SIZE and bool(workers())

            await eventually(has_share, f"{share:.0%} are there")
            kill_worker()
        proxy.rate = None
        async with asyncio.timeout(DEADLINE):
            await downloads.ended(report.id)
        report_at_end = downloads.report(report.id)
        assert report_at_end is not None
        assert report_at_end.state is DownloadState.SUCCEEDED, report_at_end
        assert report_at_end.attempts == 3
        body_fetched = files(report_at_end.folder)["model.safetensors"]
        assert hashlib.sha256(body_fetched).hexdigest() == hashlib.sha256(big).hexdigest()
        assert proxy.received < 1.1 * SIZE


async def test_connection_that_breaks_goes_on_where_it_was(start: Start, s3: S3Server, proxy: Proxy) -> None:
    body = content(4 * MEGABYTE)
    s3.put("cut", {"m/model.safetensors": body})
    proxy.cut_after = 2 * MEGABYTE
    async with start(endpoint=proxy.url) as downloads:
        report = await fetched(downloads, request("s3://cut/m"))
        assert report.attempts == 2
        assert files(report.folder)["model.safetensors"] == body
        assert report.bytes_fetched < len(body) + 1024


async def test_unreachable_source_is_retried_then_fails(start: Start, proxy: Proxy) -> None:
    proxy.refuse = True
    async with start(endpoint=proxy.url) as downloads:
        report = await failed(downloads, request("s3://nowhere/m"))
        assert report.error is not None
        assert (report.error.code, report.error.retryable) == ("SourceUnreachable", True)
        assert report.attempts == 5


@pytest.mark.parametrize("source", ["s3://no-such-bucket/m", "s3://lands/no-such-folder"])
async def test_missing_source_is_reported_at_once(start: Start, s3: S3Server, source: str) -> None:
    s3.put("lands", {"x/y.json": b"{}"})
    async with start(endpoint=s3.url) as downloads:
        report = await failed(downloads, request(source))
        assert report.error is not None
        assert (report.error.code, report.error.retryable, report.attempts) == ("SourceNotFound", False, 1)


async def test_object_changed_meanwhile_is_never_mixed(
    start: Start, s3: S3Server, proxy: Proxy, tmp_path: Path
) -> None:
    old, new = content(8 * MEGABYTE, seed=1), content(8 * MEGABYTE, seed=2)
    s3.put("changes", {"m/model.safetensors": old})
    async with start(endpoint=proxy.url) as downloads:
        proxy.rate = 4 * MEGABYTE
        report = downloads.order(request("s3://changes/m"))

        async def has_begun() -> bool:
            return (downloads.report(report.id) or report).bytes_done > MEGABYTE

        await eventually(has_begun, "the download has begun")
        s3.put("changes", {"m/model.safetensors": new})
        kill_worker()
        proxy.rate = None
        async with asyncio.timeout(DEADLINE):
            await downloads.ended(report.id)
        report_at_end = downloads.report(report.id)
        assert report_at_end is not None
        assert files(report_at_end.folder) == {"model.safetensors": new}
        assert not [name for name in below(tmp_path / "root") if ".partial" in name]


def test_replaced_object_is_noticed_when_it_is_read(s3: S3Server) -> None:
    s3.put("replaced", {"m/model.safetensors": b"old"})
    config = {"endpoint": s3.url, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
    backend = S3(parse_source("s3://replaced/m"), config, 1)
    (file,) = backend.listing().files
    s3.put("replaced", {"m/model.safetensors": b"new"})
    with pytest.raises(DownloadError) as changed, backend.read(file, 1):
        pass
    assert changed.value.reason is DownloadReason.CHANGED
    assert changed.value.transient


def test_obs_is_addressed_by_bucket_host_and_other_s3_by_path() -> None:
    keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}

    def url(source: str, **config: str) -> str:
        client = S3(parse_source(source), {**keys, **config}, 1)._client
        return str(client.generate_presigned_url("list_objects_v2", {"Bucket": parse_source(source).name}))

    obs = url("obs://qwen/x", endpoint="https://obs.cn-north-4.myhuaweicloud.com")
    assert obs.startswith("https://qwen.obs.cn-north-4.myhuaweicloud.com/?")
    assert "cn-north-4%2Fs3%2Faws4_request" in obs
    assert url("s3://qwen/x", endpoint="https://minio.example.com").startswith("https://minio.example.com/qwen?")
    assert url("s3://qwen/x").startswith("https://qwen.s3.amazonaws.com/?")
    style = {"endpoint": "https://minio.example.com", "addressing_style": "virtual", "region": "eu-west-1"}
    assert url("s3://qwen/x", **style).startswith("https://qwen.minio.example.com/?")


async def test_public_object_needs_no_keys_and_a_private_one_does(start: Start, s3: S3Server) -> None:
    s3.put("public", {"m/model.safetensors": b"one", "private/model.safetensors": b"two"})
    s3.client.put_object_acl(Bucket="public", Key="m/model.safetensors", ACL="public-read")
    async with start(endpoint=s3.url, access_key=None, secret_key=None) as downloads:
        await fetched(downloads, request("s3://public/m"))
        report = await failed(downloads, request("s3://public/private"))
        assert report.error is not None
        assert (report.error.code, report.error.retryable, report.attempts) == ("SourceUnauthorized", False, 1)


@pytest.mark.parametrize("key", ["m/../../escape.json", "m//etc/escape.json", "m/a/../../../escape.json", "m/.patio/x"])
async def test_hostile_bucket_writes_nothing_outside_its_place(
    start: Start, s3: S3Server, tmp_path: Path, key: str
) -> None:
    bucket = f"hostile-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    s3.put(bucket, {"m/model.safetensors": b"good"})
    listing = s3.client.list_objects_v2(Bucket=bucket)
    assert len(listing["Contents"]) == 1
    # Not through the client, which would tidy the name up.
    from moto.s3.models import s3_backends

    s3_backends["123456789012"]["aws"].put_object(bucket, key, b"bad")
    async with start(endpoint=s3.url) as downloads:
        report = await failed(downloads, request(f"s3://{bucket}/m"))
        assert report.error is not None
        assert (report.error.code, report.error.retryable) == ("SourceRejected", False)
    assert not [name for name in below(tmp_path) if "escape" in name or "safetensors" in name]
    assert not [name for name in below(tmp_path) if not name.startswith("root")]


async def test_weights_that_run_code_are_left_out_and_named(start: Start, s3: S3Server) -> None:
    s3.put("pickles", {f"m/{name}": body for name, body in ADAPTER.items()} | {"m/adapter_model.bin": b"code"})
    async with start(endpoint=s3.url) as downloads:
        report = await fetched(downloads, request("s3://pickles/m"))
        assert files(report.folder) == ADAPTER
        assert [skipped.name for skipped in report.skipped] == ["adapter_model.bin"]
    async with start(endpoint=s3.url, all_files=True) as downloads:
        report = await fetched(downloads, request("s3://pickles/m"))
        assert files(report.folder) == ADAPTER | {"adapter_model.bin": b"code"}


async def test_only_code_is_rejected(start: Start, s3: S3Server) -> None:
    s3.put("code", {"m/adapter_model.bin": b"code", "m/adapter_config.json": b"{}"})
    async with start(endpoint=s3.url) as downloads:
        report = await failed(downloads, request("s3://code/m"))
        assert report.error is not None
        assert (report.error.code, report.error.retryable) == ("SourceRejected", False)
        assert "adapter_model.bin" in report.error.message


async def test_same_order_twice_is_one_download(start: Start, s3: S3Server, proxy: Proxy) -> None:
    s3.put("shared", {"m/model.safetensors": content(MEGABYTE)})
    async with start(endpoint=proxy.url) as downloads:
        reports = await asyncio.gather(*(fetched(downloads, request("s3://shared/m")) for _ in range(5)))
        assert len({report.id for report in reports}) == 1
        assert proxy.received < 1.2 * MEGABYTE


async def test_two_sidecars_on_one_volume_fetch_it_once(start: Start, s3: S3Server, proxy: Proxy) -> None:
    s3.put("volume", {"m/model.safetensors": content(2 * MEGABYTE)})
    proxy.rate = 4 * MEGABYTE
    async with start(endpoint=proxy.url) as first_sidecar, start(endpoint=proxy.url) as second_sidecar:
        first, second = await asyncio.gather(
            fetched(first_sidecar, request("s3://volume/m")), fetched(second_sidecar, request("s3://volume/m"))
        )
        assert first.folder == second.folder
        assert sorted([first.bytes_fetched, second.bytes_fetched]) == [0, 2 * MEGABYTE]


async def test_cancelled_download_leaves_no_worker_and_resumes(start: Start, s3: S3Server, proxy: Proxy) -> None:
    body = content(4 * MEGABYTE)
    s3.put("cancelled", {"m/model.safetensors": body})
    async with start(endpoint=proxy.url) as downloads:
        proxy.rate = 2 * MEGABYTE
        report = downloads.order(request("s3://cancelled/m"))

        async def has_begun() -> bool:
            return (downloads.report(report.id) or report).bytes_done > MEGABYTE

        await eventually(has_begun, "the download has begun")
        cancelled = await downloads.cancel(report.id)
        assert cancelled is not None
        assert cancelled.state is DownloadState.CANCELLED
        assert workers() == []
        proxy.rate = None
        resumed = await fetched(downloads, request("s3://cancelled/m"))
        assert resumed.bytes_fetched < 3.1 * MEGABYTE
        assert files(resumed.folder)["model.safetensors"] == body
        assert await downloads.cancel(resumed.id) is not None
        assert downloads.report(resumed.id) is None


async def test_download_that_was_cancelled_before_it_began_has_ended(start: Start, s3: S3Server) -> None:
    async with start(endpoint=s3.url) as downloads:
        report = downloads.order(request("s3://x-y/m"))
        cancelled = await downloads.cancel(report.id)
        assert cancelled is not None
        assert cancelled.state is DownloadState.CANCELLED


async def test_worker_that_is_cancelled_while_it_starts_ends(start: Start, proxy: Proxy) -> None:
    async with start(endpoint=proxy.url) as downloads:
        for turns in range(12):
            report = downloads.order(request(f"s3://bucket/{turns}"))
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(DEADLINE):
                # Twice: whoever asks again must not break into the end of the worker.
                await asyncio.gather(downloads.cancel(report.id), downloads.cancel(report.id))
            assert workers() == []


async def test_leaving_waiter_ends_download_unless_others_wait(start: Start, s3: S3Server, proxy: Proxy) -> None:
    s3.put("leaving", {"m/model.safetensors": content(4 * MEGABYTE)})
    async with start(endpoint=proxy.url) as downloads:
        proxy.rate = MEGABYTE
        waiting = [asyncio.create_task(fetch(downloads, request("s3://leaving/m"))) for _ in range(2)]

        async def running() -> bool:
            return bool(workers())

        await eventually(running, "a worker runs")
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        (report,) = downloads.reports()
        assert report.finished is None
        waiting[1].cancel()
        await asyncio.gather(waiting[1], return_exceptions=True)
        async with asyncio.timeout(DEADLINE):
            await downloads.ended(report.id)
        assert workers() == []


async def test_source_too_large_is_reported_before_a_byte_is_requested(
    start: Start, s3: S3Server, proxy: Proxy, tmp_path: Path
) -> None:
    s3.put("large", {"m/model.safetensors": content(2 * MEGABYTE)})
    async with start(endpoint=proxy.url, limit=MEGABYTE) as downloads:
        report = await failed(downloads, request("s3://large/m"))
        assert report.error is not None
        assert (report.error.code, report.error.retryable, report.attempts) == ("NoSpace", True, 1)
        assert "PATIO_DOWNLOAD_LIMIT" in report.error.message
        assert proxy.received < MEGABYTE / 10


async def test_space_is_made_from_unused_revisions_only(start: Start, s3: S3Server) -> None:
    for name in ("one", "two", "three"):
        s3.put("room", {f"{name}/model.safetensors": content(MEGABYTE, seed=len(name))})
    async with start(endpoint=s3.url, limit=int(2.5 * MEGABYTE)) as downloads:
        pinned, unused = [(await fetched(downloads, request(f"s3://room/{name}"))).folder for name in ("one", "two")]
        assert await downloads.pin(str(pinned))
        newest = (await fetched(downloads, request("s3://room/three"))).folder
        assert [exists(folder) for folder in (pinned, unused, newest)] == [True, False, True]


async def test_older_revision_is_removed_when_only_newer_is_used(start: Start, s3: S3Server) -> None:
    s3.put("older", {"m/model.safetensors": b"one"})
    async with start(endpoint=s3.url) as own, start(endpoint=s3.url) as neighbour:
        first = str((await fetched(own, request("s3://older/m"))).folder)
        own.set_in_use({first})
        assert await neighbour.pin(first)
        s3.put("older", {"m/model.safetensors": b"two"})
        second = str((await fetched(own, request("s3://older/m"))).folder)
        own.set_in_use({first, second})
        assert await own.pin(second)
        own.set_in_use({second})
        s3.put("older", {"m/model.safetensors": b"three"})
        third = str((await fetched(own, request("s3://older/m"))).folder)
        own.set_in_use({third})

        async def is_removed() -> bool:
            return not exists(second)

        await eventually(is_removed, "the second revision is removed")
        assert exists(first), "the other sidecar has it"
        assert exists(third)
        assert not await own.pin(second)


async def test_output_dir_shows_one_revision_and_keeps_other_files(start: Start, s3: S3Server, tmp_path: Path) -> None:
    output_dir = tmp_path / "models" / "phi"
    output_dir.mkdir(parents=True)
    (output_dir / "notes.txt").write_text("mine")
    (output_dir / "config.json").write_text("replaced by the source's")
    first = {"config.json": b"1", "a/model.safetensors": b"one", "old.json": b"{}"}
    second = {"config.json": b"2", "a/model.safetensors": b"two", "b/new.json": b"{}"}
    async with start(endpoint=s3.url, other_roots=(tmp_path / "models",)) as downloads:
        s3.put("shown", {f"m/{name}": body for name, body in first.items()})
        report = await fetched(downloads, request("s3://shown/m", output_dir=output_dir))
        assert report.path == str(output_dir)
        assert files(report.folder) == first
        assert files(str(output_dir)) == first | {"notes.txt": b"mine"}
        older_folder = report.folder
        s3.client.delete_object(Bucket="shown", Key="m/old.json")
        s3.put("shown", {f"m/{name}": body for name, body in second.items()})
        report = await fetched(downloads, request("s3://shown/m", output_dir=output_dir))
        assert files(str(output_dir)) == second | {"notes.txt": b"mine"}
        assert not (output_dir / "old.json").is_symlink()
        assert not exists(older_folder)


async def test_links_out_of_the_roots_are_not_followed(start: Start, s3: S3Server, tmp_path: Path) -> None:
    s3.put("links", {"m/a/model.safetensors": b"one"})
    outside, models = tmp_path / "outside", tmp_path / "models"
    for folder in (outside, models / "m"):
        folder.mkdir(parents=True)
    (models / "out").symlink_to(outside)
    (models / "m" / "a").symlink_to(outside)
    async with start(endpoint=s3.url, other_roots=(models,)) as downloads:
        for target in (models / "out" / "x", models / "out", models / ".." / "outside", outside):
            report = await failed(downloads, request("s3://links/m", output_dir=target))
            assert report.error is not None
            assert report.error.code == "InvalidSource"
        report = await failed(downloads, request("s3://links/m", output_dir=models / "m"))
        assert report.error is not None
        assert "link" in report.error.message
        # Links that were put where downloads will be, before they begin.
        order = request("s3://links/m")
        (tmp_path / "root").mkdir(exist_ok=True)
        key = key_of(parse_source("s3://links/m"), s3.url)
        (tmp_path / "root" / key).symlink_to(outside)
        report = await failed(downloads, order)
        assert report.error is not None
        assert report.error.code == "InvalidSource"
    assert below(outside) == set()


async def test_folder_that_can_not_be_written_is_named(start: Start, s3: S3Server, tmp_path: Path) -> None:
    s3.put("unwritable", {"m/model.safetensors": b"one"})
    (tmp_path / "root").write_text("a file")
    async with start(endpoint=s3.url) as downloads:
        report = await failed(downloads, request("s3://unwritable/m"))
        assert report.error is not None
        assert (report.error.code, report.error.retryable, report.attempts) == ("NotWritable", False, 1)
        assert str(tmp_path / "root") in report.error.message


async def test_keys_and_endpoint_of_a_request_win_over_the_variables(start: Start, s3: S3Server) -> None:
    s3.put("wins", {"m/model.safetensors": b"one"})
    async with start(endpoint="http://127.0.0.1:1", access_key="other", secret_key="other-secret") as downloads:
        keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
        await fetched(downloads, request("s3://wins/m", endpoint=s3.url, **keys))
        # OBS' own form of addressing has names in front of the host, which an address has no room for.
        await fetched(downloads, request("obs://wins/m", endpoint=s3.url, **keys))
    async with start(access_key=None, secret_key=None) as downloads:
        report = await failed(downloads, request("obs://wins/m"))
        assert report.error is not None
        assert "ENDPOINT" in report.error.message


async def test_what_downloads_did_is_counted(start: Start, s3: S3Server) -> None:
    registry = CollectorRegistry()
    s3.put("counted", {"m/model.safetensors": b"x" * 1000})
    async with start(registry, endpoint=s3.url) as downloads:
        await fetched(downloads, request("s3://counted/m"))
        await failed(downloads, request("s3://counted/none"))
        text = generate_latest(registry).decode()
        assert 'patio:download_bytes_total{source="s3"} 1000.0' in text
        assert 'patio:download_duration_seconds_count{outcome="Succeeded",source="s3"} 1.0' in text
        assert 'patio:download_failures_total{reason="SourceNotFound",source="s3"} 1.0' in text
        assert 'patio:download_failures_total{reason="DownloadCorrupt",source="hf"} 0.0' in text
        assert 'patio:downloads{state="Running"} 0.0' in text
        assert "patio:download_expected_bytes 0.0" in text


async def test_downloads_under_way_are_in_the_metrics(start: Start, s3: S3Server, proxy: Proxy) -> None:
    registry = CollectorRegistry()

    def value(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"patio:{name}", labels) or 0.0

    s3.put("gauged", {"m/model.safetensors": content(8 * MEGABYTE)})
    proxy.rate = 2 * MEGABYTE
    async with start(registry, endpoint=proxy.url) as downloads:
        report = downloads.order(request("s3://gauged/m"))

        async def begun() -> bool:
            return value("download_done_bytes") > 0

        await eventually(begun, "bytes are on disk")
        assert value("downloads", state="Running") == 1
        assert value("download_expected_bytes") == 8 * MEGABYTE
        assert value("download_done_bytes") < 8 * MEGABYTE
        await downloads.cancel(report.id)
        assert value("downloads", state="Running") == value("download_expected_bytes") == 0


async def test_disk_of_downloads_is_measured_after_each_change(start: Start, s3: S3Server) -> None:
    s3.put("measured", {"m/model.safetensors": b"x" * 5000})
    async with start(endpoint=s3.url, limit=1_000_000) as downloads:
        assert downloads.disk_usage is None, "there is no folder before the first download"
        report = await fetched(downloads, request("s3://measured/m"))

        async def used() -> bool:
            return downloads.disk_usage is not None and downloads.disk_usage.used >= 5000

        await eventually(used, "measured")
        assert downloads.disk_usage is not None
        assert (downloads.disk_usage.held, downloads.disk_usage.limit) == (0, 1_000_000)
        downloads.set_in_use({report.folder or ""})

        async def held() -> bool:
            return downloads.disk_usage is not None and downloads.disk_usage.held == 5000

        await eventually(held, "an adapter holds it")


async def test_repository_is_fetched_by_commit_token_stays_with_hub(start: Start) -> None:
    with running_hub(ADAPTER, token=TOKEN) as hub:
        async with start(hf_endpoint=hub.url, hf_token=TOKEN) as downloads:
            report = await fetched(downloads, request("team/adapter"))
            assert files(report.folder) == ADAPTER
            assert report.revision == hub.commit
        cdn_headers = [headers for _, path, headers in hub.calls if path.startswith("cdn")]
        assert len(cdn_headers) == 1
        assert not [headers for headers in cdn_headers if TOKEN in str(headers)]


async def test_folder_of_a_repository_at_a_revision(start: Start) -> None:
    inside = {f"loras/sql/{name}": body for name, body in ADAPTER.items()}
    with running_hub({**inside, "model.safetensors": b"base" * 9}, revisions=("v1", "refs/pr/3")) as hub:
        async with start(hf_endpoint=hub.url, hf_revision="v1") as downloads:
            report = await fetched(downloads, request("hf://team/adapter/loras/sql"))
            assert files(report.folder) == ADAPTER
            await fetched(downloads, request("hf://team/adapter@refs%2Fpr%2F3/loras/sql"))
            await fetched(downloads, request("team/adapter", hf_revision=hub.commit))
            missing = await failed(downloads, request("team/adapter@v2"))
            assert missing.error is not None
            assert (missing.error.code, missing.attempts) == ("SourceNotFound", 1)


async def test_token_for_one_hub_is_not_sent_to_another(start: Start) -> None:
    with running_hub(ADAPTER) as own_hub, running_hub(ADAPTER) as other_hub:
        async with start(hf_endpoint=own_hub.url, hf_token=TOKEN) as downloads:
            await fetched(downloads, request("team/adapter", hf_endpoint=other_hub.url))
            await fetched(downloads, request("team/adapter"))
        assert TOKEN in str(own_hub.calls)
        assert TOKEN not in str(other_hub.calls)


@pytest.mark.parametrize(
    ("fields", "source", "code"),
    [
        ({"token": TOKEN}, "team/adapter", "SourceUnauthorized"),
        ({"gated": True}, "team/adapter", "SourceUnauthorized"),
        ({}, "team/other", "SourceNotFound"),
    ],
)
async def test_source_rejected_by_the_hub_is_not_requested_again(
    start: Start, fields: dict[str, Any], source: str, code: str
) -> None:
    with running_hub(ADAPTER, **fields) as hub:
        async with start(hf_endpoint=hub.url) as downloads:
            report = await failed(downloads, request(source))
            assert report.error is not None
            assert (report.error.code, report.error.retryable, report.attempts) == (code, False, 1)
        assert len(hub.calls) == 1


async def test_busy_or_failing_hub_is_retried(start: Start) -> None:
    with running_hub(ADAPTER, faults=[(429, {"Retry-After": "0"}), (502, {}), (503, {})]) as hub:
        async with start(hf_endpoint=hub.url) as downloads:
            report = await fetched(downloads, request("team/adapter"))
            assert report.attempts == 4
            assert files(report.folder) == ADAPTER


@pytest.mark.parametrize("ignores_range", [False, True])
async def test_hub_file_resumes_by_range_and_restarts_without_ranges(start: Start, ignores_range: bool) -> None:
    body = content(4 * MEGABYTE)
    with (
        running_hub({"model.safetensors": body}, ignores_range=ignores_range) as hub,
        proxy_to(hub.cdn) as proxy,
    ):
        hub.cdn = proxy.url
        proxy.cut_after = 2 * MEGABYTE
        async with start(hf_endpoint=hub.url) as downloads:
            report = await fetched(downloads, request("team/adapter"))
            assert report.attempts == 2
            assert files(report.folder) == {"model.safetensors": body}
            assert (report.bytes_fetched > 5 * MEGABYTE) is ignores_range
            assert report.bytes_done == len(body)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
async def test_file_with_another_hash_never_gets_its_name(start: Start, tmp_path: Path, name: str) -> None:
    with running_hub({"model.safetensors": content(1000), "config.json": b"{}"}) as hub:
        hub.lists = {file: hub.sibling(file) for file in hub.files}
        hub.files[name] = bytes(len(hub.files[name]))
        hub.fixed_commit = "c" * 40
        async with start(hf_endpoint=hub.url) as downloads:
            report = await failed(downloads, request("team/adapter"))
            assert report.error is not None
            assert (report.error.code, report.attempts) == ("DownloadCorrupt", 2)
    assert not [file for file in below(tmp_path) if file.endswith(name)]


@pytest.mark.parametrize("name", ["../../escape.json", "/tmp/escape.json", "a/../../escape.json", "a\\..\\b.json"])
async def test_hostile_repository_writes_nothing(start: Start, tmp_path: Path, name: str) -> None:
    with running_hub({"model.safetensors": content(1000), name: b"{}"}) as hub:
        async with start(hf_endpoint=hub.url) as downloads:
            report = await failed(downloads, request("team/adapter"))
            assert report.error is not None
            assert report.error.code == "SourceRejected"
    assert not [file for file in below(tmp_path) if "escape" in file or file.endswith(".json")]


async def test_volume_is_used_in_place_and_copied_on_request(start: Start, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    for name, body in {**ADAPTER, "blobs/x.json": b"{}"}.items():
        (volume / "sql" / name).parent.mkdir(parents=True, exist_ok=True)
        (volume / "sql" / name).write_bytes(body)
    (volume / "sql" / "link.json").symlink_to("blobs/x.json")
    bodies = {**ADAPTER, "blobs/x.json": b"{}", "link.json": b"{}"}
    async with start(other_roots=(volume,)) as downloads:
        for source in ("pvc://sql", f"pvc://{volume}/sql", f"file://{volume}/sql"):
            report = await fetched(downloads, request(source))
            assert (report.folder, report.bytes_fetched) == (f"{volume}/sql", 0)
        report = await fetched(downloads, request("pvc://sql", output_dir=volume / "copy"))
        assert files(report.folder) == bodies
        assert files(str(volume / "copy")) == bodies
        (volume / "sql" / "out.json").symlink_to("/etc/hostname")
        for order in (request("file:///etc"), request("pvc://sql", output_dir=volume / "copy")):
            report = await failed(downloads, order)
            assert report.error is not None
            assert report.error.code == "InvalidSource"
        report = await failed(downloads, request("pvc://nothing"))
        assert report.error is not None
        assert report.error.code == "SourceNotFound"


async def test_only_the_last_downloads_are_remembered(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patio.downloads.downloads.HISTORY", 3)
    async with start() as downloads:
        for index in range(6):
            await failed(downloads, request(f"pvc://nothing-{index}"))
        assert len(downloads.reports()) <= 4
        assert downloads.reports()[0].source == "pvc://nothing-5"


async def test_no_more_than_so_many_are_queued(start: Start, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patio.downloads.downloads.MOST_DOWNLOADS", 4)
    async with start(endpoint=proxy.url) as downloads:
        for index in range(4):
            downloads.order(request(f"s3://bucket/{index}"))
        downloads.order(request("s3://bucket/0"))
        with pytest.raises(DownloadError) as raised:
            downloads.order(request("s3://bucket/4"))
        assert (raised.value.reason, raised.value.retryable) == (DownloadReason.TOO_MANY, True)


def place(downloads_root: Path, s3: S3Server, bucket: str) -> Path:
    return downloads_root / key_of(parse_source(f"s3://{bucket}/m"), s3.url)


async def test_folders_that_others_write_to_take_no_turn(start: Start, s3: S3Server, tmp_path: Path) -> None:
    names = [f"taken{number}" for number in range(WORKERS)]
    for name in (*names, "open"):
        s3.put(name, {"m/model.safetensors": name.encode()})
    async with start(endpoint=s3.url) as downloads:
        with contextlib.ExitStack() as stack:
            for name in names:
                folder = place(tmp_path / "root", s3, name)
                folder.mkdir(parents=True)
                stack.enter_context(locked(folder / ".lock"))
            fetches = [asyncio.create_task(fetched(downloads, request(f"s3://{name}/m"))) for name in names]

            async def all_wait() -> bool:
                waiting_reports = [
                    waiting_report
                    for waiting_report in downloads.reports()
                    if waiting_report.state is DownloadState.WAITING
                ]
                return len(waiting_reports) == WORKERS and all(
                    "another process" in waiting_report.message for waiting_report in waiting_reports
                )

            await eventually(all_wait, "the others wait for their folders")
            await fetched(downloads, request("s3://open/m"))
            assert workers() == []
        for report in await asyncio.gather(*fetches):
            assert report.attempts == 1


async def test_disk_that_fails_ends_nothing(start: Start, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("stale", {"m/model.safetensors": b"one"})
    monkeypatch.setattr("patio.downloads.downloads.DISK_RETRY_SECONDS", 0.01)
    attempts: list[object] = []
    sync = Pins.sync

    def failing_sync(holds: Pins, folders: Any) -> None:
        attempts.append(folders)
        if len(attempts) < 3:
            raise OSError(errno.ESTALE, "Stale file handle")
        sync(holds, folders)

    monkeypatch.setattr(Pins, "sync", failing_sync)
    async with start(endpoint=s3.url) as downloads:
        folder = str((await fetched(downloads, request("s3://stale/m"))).folder)
        downloads.set_in_use({folder})

        async def is_known() -> bool:
            return len(attempts) >= 3 and bool(downloads.on_disk())

        await eventually(is_known, "the disk is looked at again until it answers")


async def test_volume_that_hangs_holds_up_no_other(start: Start, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("beside", {"m/model.safetensors": b"one"})
    answer = threading.Event()

    def hung_is_there(folder: Path) -> bool:
        if "hung" in str(folder):
            answer.wait(2 * DEADLINE)
        return is_there(folder)

    monkeypatch.setattr("patio.downloads.downloads.is_there", hung_is_there)
    async with start(endpoint=s3.url) as downloads:
        folder = str((await fetched(downloads, request("s3://beside/m"))).folder)
        hanging = asyncio.create_task(downloads.pin("/hung/volume"))
        async with asyncio.timeout(DEADLINE):
            assert await downloads.pin(folder)
        answer.set()
        assert not await hanging


async def test_object_is_distinguished_from_a_folder(start: Start, s3: S3Server) -> None:
    s3.put("objects", {"test/churn": b"x", "test/churn-logs": b"y"})
    async with start(endpoint=s3.url) as downloads:
        for folder, message in (("test/churn", "is an object, not a folder"), ("none", "s3://objects/none at")):
            report = await failed(downloads, request(f"s3://objects/{folder}"))
            assert report.error is not None
            assert report.error.code == "SourceNotFound"
            assert message in report.error.message

"""Downloads end to end: real workers, a real S3 server, a double of the Hub, faults and deaths in between."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from patio.api.downloads_protocol import DownloadReason, DownloadReport, DownloadRequest, DownloadState
from patio.downloads.config import DownloadSettings
from patio.downloads.downloads import Downloads
from patio.downloads.faults import DownloadFault
from patio.downloads.telemetry import DownloadMetrics

from download_sources import (
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
    s3_server,
    workers,
)
from sidecar_builders import eventually

MEGABYTE = 1024 * 1024
SIZE = int(os.environ.get("PATIO_TEST_DOWNLOAD_MB", "64")) * MEGABYTE
"""Of the download that is killed twice."""

ADAPTER = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": content(300_000), "README.md": b"# sql"}

Start = Callable[..., AbstractAsyncContextManager[Downloads]]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with proxy_to(s3.url) as proxy:
        yield proxy


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start downloads: `async with start() as downloads`. Pauses are short."""
    monkeypatch.setattr("patio.downloads.downloads.FIRST_PAUSE", 0.02)

    @contextlib.asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Downloads]:
        ids = itertools.count()
        settings = {"root": tmp_path / "root", "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, **settings}
        downloads = Downloads(
            DownloadSettings(**settings),
            DownloadMetrics(CollectorRegistry()),
            random.Random(0),
            os.environ,
            new_id=lambda: f"d{next(ids)}",
        )
        running = asyncio.create_task(downloads.run())
        try:
            yield downloads
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            assert workers() == []

    return run


def request(source: str, *, output_dir: Path | None = None, **config: str) -> DownloadRequest:
    return DownloadRequest(
        source=source,
        output_dir=None if output_dir is None else str(output_dir),
        config=json.dumps(config) if config else None,
    )


async def fetched(downloads: Downloads, order: DownloadRequest) -> DownloadReport:
    async with asyncio.timeout(120):
        report = await downloads.fetch(order)
    assert report.error is None, report
    return report


async def failed(downloads: Downloads, order: DownloadRequest) -> DownloadReport:
    async with asyncio.timeout(60):
        report = await downloads.fetch(order)
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


async def test_a_folder_of_a_bucket_lands_under_its_revision(start: Start, s3: S3Server, tmp_path: Path) -> None:
    s3.put("lands", {f"loras/sql/{name}": body for name, body in ADAPTER.items()} | {"loras/sqlite/x.json": b"{}"})
    async with start(endpoint=s3.url) as downloads:
        report = await fetched(downloads, request("s3://lands/loras/sql"))
        assert files(report.folder) == ADAPTER
        assert report.folder == report.path
        assert Path(str(report.folder)).parent.parent == tmp_path / "root"
        assert (report.files_done, report.files_total) == (3, 3)
        assert report.bytes_done == report.bytes_total == report.bytes_fetched == sum(map(len, ADAPTER.values()))
        again = await fetched(downloads, request("s3://lands/loras/sql"))
        assert (again.folder, again.bytes_fetched, again.id == report.id) == (report.folder, 0, False)


async def test_a_download_that_is_killed_twice_completes_and_fetches_each_byte_about_once(
    start: Start, s3: S3Server, proxy: Proxy
) -> None:
    big = content(SIZE, seed=7)
    s3.put("killed", {"m/model.safetensors": big, "m/config.json": b"{}"})
    async with start(endpoint=proxy.url) as downloads:
        proxy.rate = SIZE / 3
        report = downloads.order(request("s3://killed/m"))

        def bytes_done() -> int:
            return (downloads.report(report.id) or report).bytes_done

        for share in (0.3, 0.6):

            async def far_enough(share: float = share) -> bool:
                return bytes_done() > share * SIZE and bool(workers())

            await eventually(far_enough, f"{share:.0%} are there", 60)
            kill_worker()
        proxy.rate = None
        async with asyncio.timeout(120):
            await downloads.ended(report.id)
        done = downloads.report(report.id)
        assert done is not None
        assert done.state is DownloadState.SUCCEEDED, done
        assert done.attempts == 3
        got = Path(str(done.folder), "model.safetensors").read_bytes()
        assert hashlib.sha256(got).hexdigest() == hashlib.sha256(big).hexdigest()
        assert proxy.received < 1.1 * SIZE

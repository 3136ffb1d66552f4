"""A sidecar in this process beside an engine double, and the recordings of the real engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_double import Double
from patio.adapters.store import Store
from patio.app import assemble
from patio.downloads.settings import DownloadSettings
from patio.metrics import scrape
from patio.settings import Settings
from patio_protocol.client import SidecarClient
from patio_protocol.engines import EngineKind
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import StartSidecar
from patio_testing.sidecar.download_sources import ACCESS_KEY, SECRET_KEY, Proxy, S3Server, proxy_to, s3_server, workers

RECORDINGS = Path(__file__).parents[2] / "tests/doubles/engine/src/engine_double/recordings"


@pytest.fixture(autouse=True)
def patient_scrapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an engine the time of a busy machine where a test does not say how long a scraper waits."""
    monkeypatch.setattr(scrape, "DEADLINE", DEADLINE)


@pytest.fixture
def recordings() -> Path:
    return RECORDINGS


@pytest.fixture
def sidecar(tmp_path: Path) -> StartSidecar:
    """Start a sidecar beside a double: `async with sidecar(double, api_key=...) as client`."""

    @contextlib.asynccontextmanager
    async def start(double: Double | str, **settings: Any) -> AsyncIterator[SidecarClient]:
        kind = EngineKind.VLLM if isinstance(double, str) else EngineKind(double.engine.core.settings.engine.value)
        settings = {"downloads": DownloadSettings(root=tmp_path / "root"), **settings}
        sidecar_settings = Settings(**{"engine": kind, "engine_endpoint": str(double), **settings})
        stopping = asyncio.Event()
        async with httpx.AsyncClient() as http:
            parts = assemble(sidecar_settings, Store(tmp_path / "state.json"), http, stopping)
            running = asyncio.create_task(parts.run())
            transport = httpx.ASGITransport(app=parts.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport) as caller:
                try:
                    yield SidecarClient("http://sidecar", caller)
                finally:
                    stopping.set()
                    running.cancel()
                    # An error of the reconciler is the test's error.
                    with contextlib.suppress(asyncio.CancelledError):
                        await running
            await parts.close()
            assert workers() == [], "no download outlives its sidecar"

    return start


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server, for all tests."""
    with s3_server() as server:
        yield server


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    """A way to it that counts and slows."""
    with proxy_to(s3.url) as proxy:
        yield proxy


@pytest.fixture
def downloads(tmp_path: Path, proxy: Proxy) -> DownloadSettings:
    return DownloadSettings(
        root=tmp_path / "root",
        other_roots=(tmp_path / "models",),
        endpoint=proxy.url,
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
    )

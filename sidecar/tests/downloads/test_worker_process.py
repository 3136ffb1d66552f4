"""Downloads of a sidecar that is a process of its own: who outlives whom, and where credentials are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from inference_server.ports import free_port
from patio_protocol.client import SidecarClient
from patio_protocol.downloads import DownloadRequest
from patio_protocol.errors import RejectedError, SidecarError
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import eventually, load_request
from patio_testing.sidecar.download_sources import (
    ACCESS_KEY,
    SECRET_KEY,
    TOKEN,
    Proxy,
    S3Server,
    alive,
    content,
    running_hub,
    workers,
)

MEGABYTE = 1024 * 1024


@dataclass
class Process:
    """A sidecar without an engine."""

    pid: int
    client: SidecarClient
    log: Path
    ended: asyncio.subprocess.Process


Run = Callable[..., AbstractAsyncContextManager[Process]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    @contextlib.asynccontextmanager
    async def start(**variables: str) -> AsyncIterator[Process]:
        port, log = free_port(), tmp_path / "sidecar.log"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "patio.app", "--host", "127.0.0.1", "--port", str(port), "--log-level", "DEBUG"),
            env={
                **os.environ,
                "INFERENCE_ENGINE": "vllm",
                "INFERENCE_ENGINE_ENDPOINT": "http://127.0.0.1:1",
                "PATIO_STATE_FILE": str(tmp_path / "state" / "state.json"),
                "PATIO_DOWNLOAD_ROOT": str(tmp_path / "root"),
                **variables,
            },
            stderr=log.open("ab"),
        )
        try:
            async with httpx.AsyncClient() as http:
                client = SidecarClient(f"http://127.0.0.1:{port}", http)

                async def is_serving() -> bool:
                    with contextlib.suppress(SidecarError):
                        return bool(await client.status())
                    return False

                await eventually(is_serving, "it serves")
                yield Process(process.pid, client, log, process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return start


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_ended_sidecar_leaves_no_worker_successor_resumes(
    run: Run, s3: S3Server, proxy: Proxy, ending: signal.Signals
) -> None:
    body = content(8 * MEGABYTE, seed=ending)
    s3.put(f"ends-{ending}", {"m/model.safetensors": body})
    variables = {"ENDPOINT": proxy.url, "ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY}
    order = DownloadRequest(source=f"s3://ends-{ending}/m")
    proxy.rate = 2 * MEGABYTE
    async with run(**variables) as first:
        started = await first.client.download(order.model_copy(update={"async_download": True}))

        async def has_begun() -> bool:
            return (await first.client.download_report(started.id)).bytes_done > 3 * MEGABYTE

        await eventually(has_begun, "the download has begun")
        (worker,) = workers(first.pid)
        os.kill(first.pid, ending)
        await asyncio.wait_for(first.ended.wait(), DEADLINE)

        async def has_ended() -> bool:
            return not alive(worker)

        await eventually(has_ended, "the worker is gone")
    proxy.rate = None
    async with run(**variables) as second:
        report = await second.client.download(order)
        assert read(report.folder, "model.safetensors") == body
        assert report.bytes_fetched < 5.5 * MEGABYTE
        assert proxy.received < 1.2 * len(body)


async def test_credentials_are_nowhere_but_in_memory(run: Run, s3: S3Server, proxy: Proxy, tmp_path: Path) -> None:
    """Of variables and of `config`, of downloads that work, that fail and that are in progress, at log level DEBUG."""
    s3.put("secrets", {"m/model.safetensors": content(MEGABYTE), "slow/model.safetensors": content(4 * MEGABYTE)})
    credentials = {
        "access_key": "AKIDGIVENGIVEN",
        "secret_key": "given+secret/given+secret",
        "session_token": "sessionTOKEN",
    }
    in_variables = {"HF_AUTH_TOKEN": TOKEN, "ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY}
    secrets = [
        *in_variables.values(),
        credentials["secret_key"],
        credentials["session_token"],
        credentials["access_key"],
    ]
    texts: dict[str, bytes] = {}
    with running_hub({"model.safetensors": content(1000)}, token=TOKEN) as hub:
        async with run(**in_variables, ENDPOINT=proxy.url, HF_ENDPOINT=hub.url) as sidecar:
            client = sidecar.client
            config = json.dumps(credentials)
            await client.download(DownloadRequest(source="s3://secrets/m"))
            await client.download(DownloadRequest(source="s3://secrets/m", config=config))
            await client.download(DownloadRequest(source="team/adapter"))
            for source in ("s3://secrets/none", "team/other"):
                with pytest.raises(RejectedError) as raised:
                    await client.download(DownloadRequest(source=source, config=config))
                texts[source] = str(raised.value).encode()
            # A Hub that says the token back.
            hub.faults.append((404, {"X-Error-Message": f"no {TOKEN}", "X-Error-Code": TOKEN}))
            with pytest.raises(RejectedError) as raised:
                await client.download(DownloadRequest(source="team/echo"))
            texts["echo"] = str(raised.value).encode()
            proxy.rate = 500_000
            await client.load(load_request("sql", None, source="s3://secrets/slow", config=config, wait=0))

            async def running_worker() -> int:
                return next(iter(workers(sidecar.pid)), 0)

            worker = await eventually(running_worker, "a worker runs")
            for part in ("cmdline", "environ"):
                texts[f"worker's {part}"] = read(f"/proc/{worker}", part)
            texts["sidecar's cmdline"] = read(f"/proc/{sidecar.pid}", "cmdline")
            texts["downloads"] = (await client.downloads()).model_dump_json().encode()
            texts["adapters"] = (await client.adapters()).model_dump_json().encode()
            for route in ("/metrics", "/", "/ready"):
                answer = await client._http.get(client._base + route)
                texts[route] = answer.content
        texts.update(contents(tmp_path))
    assert str(tmp_path / "state" / "state.json") in texts
    assert b"s3://secrets/slow" in texts[str(tmp_path / "state" / "state.json")]
    assert texts[str(tmp_path / "sidecar.log")]
    for secret in secrets:
        assert [name for name, text in texts.items() if secret.encode() in text] == [], secret


def test_libraries_of_sources_are_not_in_the_sidecar() -> None:
    import subprocess

    code = "import sys, patio.app; print([m for m in sys.modules if m.split('.')[0] in ('botocore','huggingface_hub')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def read(folder: str | None, name: str) -> bytes:
    assert folder is not None
    return Path(folder, name).read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

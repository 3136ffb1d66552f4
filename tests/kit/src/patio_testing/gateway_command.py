"""`python -m patio_gateway` as a process: started, read by its log, and ended with its Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx

from patio_gateway.envoy.admin import Admin, AdminError


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder with a short path: the gateway's sockets are in it."""
    made = Path(tempfile.mkdtemp(prefix="gateway-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@asynccontextmanager
async def gateway_command(folder: Path, port: int, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command; end it and its Envoy at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "patio_gateway", "--port", str(port), "--folder", str(folder), "--threads", "1", *arguments),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        async with Admin(str(folder / "admin.sock")) as admin:
            with contextlib.suppress(AdminError):
                await admin.quit()


async def line_with(process: asyncio.subprocess.Process, text: str) -> str:
    """Return the first line of a command's log that has this text."""
    assert process.stderr is not None
    async with asyncio.timeout(120):
        async for line in process.stderr:
            if text in (decoded := line.decode()):
                return decoded
    raise AssertionError(f"the command ended without: {text}")


async def ended(process: asyncio.subprocess.Process) -> int:
    """Wait until a command has ended; return its exit code."""
    async with asyncio.timeout(60):
        return await process.wait()


async def completion(port: int, model: str, key: str | None = None, **more: object) -> httpx.Response:
    """Ask for a completion of a few tokens; `more` are fields of the body."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        return await client.post(
            f"http://127.0.0.1:{port}/v1/completions",
            json={"model": model, "prompt": "Say it", "max_tokens": 4} | more,
            headers=headers,
        )

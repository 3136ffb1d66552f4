"""`python -m patio_gateway` as a process, with the Envoy that it starts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from patio_gateway.envoy.admin import Admin, AdminError
from patio_testing.deadline import DEADLINE


@asynccontextmanager
async def gateway_command(
    folder: Path, port: int, *words: str, variables: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command; end it and its Envoy at the end.

    Args:
        folder: of Envoy's files, with a short path.
        port: to listen on.
        words: more of the command line.
        variables: beside those of this process.

    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "patio_gateway", "--port", str(port), "--folder", str(folder), "--threads", "1", *words),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(variables or {})},
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


async def line_with(process: asyncio.subprocess.Process, words: str) -> str:
    """Return the next line of a command's log that has these words."""
    assert process.stderr is not None
    seen = []
    async with asyncio.timeout(DEADLINE):
        async for line in process.stderr:
            seen.append(text := line.decode())
            if words in text:
                return text
    raise AssertionError(f"the command ended without {words!r}: {seen}")


async def completion(port: int, model: str, key: str | None = None, **more: object) -> httpx.Response:
    """Ask a model for a completion."""
    async with httpx.AsyncClient(timeout=DEADLINE, trust_env=False) as client:
        return await client.post(
            f"http://127.0.0.1:{port}/v1/completions",
            json={"model": model, "prompt": "Say it", "max_tokens": 4} | more,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
        )

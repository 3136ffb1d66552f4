"""What the tests of adapters that are fetched have in common: files at a source, orders, and waits for what comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from engine_double import Double
from patio_protocol.adapters import AdapterReport, LoadRequest
from patio_protocol.client import SidecarClient
from patio_testing.sidecar.builders import adapter_files, eventually
from patio_testing.sidecar.download_sources import S3Server


def adapter(folder: Path, *, rank: int = 8, padding: int = 0) -> dict[str, bytes]:
    """Return the files of an adapter that engines accept."""
    path = Path(adapter_files(folder, rank=rank))
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    return {**files, **({"vocab.txt": bytes(padding)} if padding else {})}


def put(s3: S3Server, folder: str, files: dict[str, bytes]) -> str:
    s3.put("adapters", {f"{folder}/{name}": body for name, body in files.items()})
    return f"s3://adapters/{folder}"


async def settle(client: SidecarClient, name: str, state: str) -> AdapterReport:
    async def check() -> AdapterReport | None:
        found = {report.lora_name: report for report in (await client.adapters()).adapters}.get(name)
        return found if found is not None and found.state == state else None

    found: AdapterReport = await eventually(check, f"{name} is {state}")
    return found


async def served(double: Double) -> dict[str, str]:
    """Return the paths of the adapters in the engine's own list."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{double.url}/v1/models")
    return {model["id"]: model["root"] for model in answer.json()["data"] if model.get("parent")}


def order(name: str, source: str, **fields: Any) -> LoadRequest:
    return LoadRequest(lora_name=name, source=source, **fields)


def is_there(folder: str | None) -> bool:
    return folder is not None and Path(folder).is_dir()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

"""What the sidecar's package adds to `inference_server`: standard names behind an engine's metrics, and safe loads.

`inference_server` finds this module by the entry point `inference_server.hooks`, and neither package imports the other.
It calls a function here from any thread, outside Kubernetes and without a sidecar, with a mapping that has the engine's
kind, URL, model and keys. ValueError is what the engine will never accept, OSError what may work later, NotImplemented
an engine that is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from patio.engine.base import Engine, EngineError
from patio.engine.sglang import Sglang
from patio.engine.vllm import Vllm
from patio.metrics.rewrite import compile_rules, rewrite
from patio_protocol.engines import EngineKind

Server = Mapping[str, str | None]


def metrics(server: Server, text: str) -> str | Any:
    """Return the engine's metrics text with the standard families behind it."""
    kind = _kind(server)
    if kind is None:
        return NotImplemented
    return rewrite(text.encode(), compile_rules(kind, ("patio",))).text.decode()


def load_adapter(server: Server, name: str, path: str) -> Any:
    """Load an adapter, or replace its weights so that no answer is made by both."""

    async def load(engine: Engine) -> None:
        view = await engine.view()
        if view.error is not None:
            raise view.error
        if view.adapters is not None and name in view.adapters:
            await engine.replace(name, path)
        else:
            await engine.load(name, path)

    return _with_engine(server, load)


def unload_adapter(server: Server, name: str) -> Any:
    """Unload an adapter; one that is not loaded is no error."""

    async def unload(engine: Engine) -> None:
        await engine.unload(name)

    return _with_engine(server, unload)


def _kind(server: Server) -> EngineKind | None:
    try:
        return EngineKind(server["engine"] or "")
    except ValueError:
        return None


def _with_engine(server: Server, change: Callable[[Engine], Awaitable[None]]) -> Any:
    kind = _kind(server)
    if kind is None:
        return NotImplemented

    async def run() -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            url, key = server["url"] or "", server["api_key"]
            engine: Engine
            if kind is EngineKind.VLLM:
                engine = Vllm(url, http, key)
            else:
                engine = Sglang(url, http, key, server["admin_key"], server["model"])
            await change(engine)

    # A thread of its own: the caller's may run an event loop, as in a notebook.
    with ThreadPoolExecutor(1) as threads:
        try:
            threads.submit(asyncio.run, run()).result()
        except EngineError as error:
            raise (ValueError if error.permanent else OSError)(error.message) from error
    return None

"""A real Envoy with the gateway's files, a front that tests write, and engines of this process behind it.

`running_gateway` starts one on a free port of loopback and ends it. `serving` serves an application that a test wrote
as an engine. Everything lives in the event loop of the test.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference_server.ports import free_port
from patio_gateway.app import Control, Knowledge, SignalFreeServer
from patio_gateway.control.bootstrap import Listening, bootstrap
from patio_gateway.envoy.admin import Admin
from patio_gateway.envoy.files import make_folder
from patio_gateway.envoy.process import Envoy
from patio_gateway.envoy.program import find_envoy
from patio_gateway.front.server import config as front_config
from patio_gateway.snapshot import Address, Snapshot
from patio_testing.deadline import DEADLINE

Answer = Callable[[Request], Awaitable[Response]]
METHODS = ["GET", "POST", "PUT", "DELETE"]


@dataclass(frozen=True)
class Received:
    """A request that came to an engine or to the front."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Recorder:
    """An application that keeps what it received, and answers as a test says."""

    answer: Answer | None = None
    received: list[Received] = field(default_factory=list)

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(routes=[Route("/{path:path}", self._receive, methods=METHODS)])

    async def _receive(self, request: Request) -> Response:
        body = await request.body()
        self.received.append(Received(request.method, request.url.path, dict(request.headers), body))
        if self.answer is not None:
            return await self.answer(request)
        return JSONResponse({"length": len(body)})


async def not_found(_: Request) -> Response:
    """Answer as a front that does not know the model."""
    body = {"error": {"message": "No such model.", "type": "invalid_request_error", "code": "model_not_found"}}
    return JSONResponse(body, 404)


@asynccontextmanager
async def serving(app: Any, socket: str | None = None) -> AsyncIterator[Address]:
    """Serve an application on a free port of loopback as an engine, or on a socket as the front; yield its address."""
    port = 0 if socket else free_port()
    server = SignalFreeServer(front_config(app, socket) if socket else _engine_config(app, port))
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or task.done(), "the application serves")
        yield "127.0.0.1", port
    finally:
        server.should_exit = server.force_exit = True
        await task


def _engine_config(app: Any, port: int) -> uvicorn.Config:
    # Connections are kept for uvicorn's 5 s, as engines keep them.
    return uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, lifespan="off")


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds, which may be awaitable; return its value. Fail after the tests' deadline."""
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert asyncio.get_running_loop().time() < deadline, f"not within {DEADLINE} s: {what}"
        await asyncio.sleep(0.01)


@dataclass
class Gateway:
    """A gateway that runs."""

    listening: Listening
    envoy: Envoy
    admin: Admin
    control: Control
    knowledge: Knowledge
    front: Recorder
    client: httpx.AsyncClient

    async def publish(self, snapshot: Snapshot) -> None:
        """Give the gateway a snapshot; return when Envoy has it."""
        await self.control.publish(snapshot)
        assert self.knowledge.snapshot is snapshot

    async def ask(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Send a request with a JSON body; `_` in names of headers stands for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers=sent)

    async def logged(self, count: int) -> list[dict[str, Any]]:
        """Wait until the access log has so many lines; return them."""
        path = Path(self.listening.access_log)

        def lines() -> list[str]:
            return path.read_text().splitlines() if path.exists() else []

        await until(lambda: len(lines()) >= count, f"the access log has {count} lines")
        return [json.loads(line) for line in lines()]


@asynccontextmanager
async def running_gateway(
    snapshot: Snapshot | None = None, *, make_front: Callable[[Knowledge], Any] | None = None, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run Envoy with the gateway's files; `settings` are of `Listening`.

    `make_front` makes the front; without one it is an application that knows no model, and that the test changes.
    """
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    listening = replace(
        Listening(listen=("127.0.0.1", free_port()), folder=str(folder), access_log=str(folder / "access.log")),
        **settings,
    )
    make_folder(folder)
    front = Recorder(not_found)
    knowledge = Knowledge()
    try:
        front_app = make_front(knowledge) if make_front is not None else front.app()
        async with Admin(listening.admin_socket) as admin, serving(front_app, listening.front_socket):
            control = Control(listening, admin, knowledge)
            control.prepare()
            envoy = Envoy(find_envoy(None), folder, admin, threads=1)
            await envoy.start(bootstrap(listening), listening.listen)
            host, port = listening.listen
            limits = httpx.Limits(max_connections=None)
            try:
                async with httpx.AsyncClient(
                    base_url=f"http://{host}:{port}", timeout=DEADLINE, trust_env=False, limits=limits
                ) as client:
                    gateway = Gateway(listening, envoy, admin, control, knowledge, front, client)
                    if snapshot is not None:
                        await gateway.publish(snapshot)
                    yield gateway
            finally:
                await envoy.stop(0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

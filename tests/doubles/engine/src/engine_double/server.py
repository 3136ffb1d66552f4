"""Runs a double: its port, its faults in front of its engine, its end by SIGTERM or crash.

`running_double` is for tests in the same process::

    async with running_double(engine="vllm", api_key="sekret") as double:
        async with httpx.AsyncClient(base_url=double.url) as client:
            ...
        double.fault(path="/v1/load_lora_adapter", status=503, times=2)
        double.forget()            # as a restarted engine, but the port stays open
        await double.crash()       # connections break, the port closes, adapters are forgotten
        await double.start()       # the same port again
        await double.terminate()   # as SIGTERM: vLLM aborts, SGLang drains
        assert len(double.calls("/v1/load_lora_adapter")) == 3

Keywords are the fields of `settings.Settings`. `serve` runs one as the whole process, for images.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine_double import control, nodes
from engine_double.core import CompactJSON, Core, Engine
from engine_double.faults import Fault, Request
from engine_double.settings import EngineKind, Settings
from engine_double.sglang import Sglang
from engine_double.vllm import Vllm

CRASH_STATUS = 137
"""Exit status of a crashed process, as of one that was killed."""


def make_engine(settings: Settings) -> Engine:
    """A fresh engine; must be called inside a running event loop."""
    core = Core(settings)
    if settings.lora_load_seconds:
        path = "/v1/load_lora_adapter" if settings.engine is EngineKind.VLLM else "/load_lora_adapter"
        core.faults.order(Fault(path, delay=settings.lora_load_seconds))
    return Vllm(core) if settings.engine is EngineKind.VLLM else Sglang(core)


def make_app(engine: Engine, *, crash: Callable[[], None], terminate: Callable[[], None]) -> ASGIApp:
    """The engine's routes behind its keys and the ordered faults, and the control surface beside them."""
    app = Starlette(
        routes=[*engine.routes(), *control.routes(engine, crash=crash, terminate=terminate)],
        exception_handlers={404: _detail, 405: _detail},
    )
    app.router.redirect_slashes = False
    return _Front(app, engine)


async def _detail(_: HTTPRequest, error: Exception) -> Response:
    """Unknown routes and methods answer as FastAPI does, since both engines are built on it."""
    assert isinstance(error, HTTPException)
    return CompactJSON({"detail": error.detail}, status_code=error.status_code, headers=error.headers)


class _Front:
    """Logs each request, checks the key, and lets a fault stand in the way."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(control.PREFIX + "/"):
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        body, receive = await _buffered(receive)
        status = 0

        async def watching(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, watching)
        finally:
            core = self._engine.core
            core.faults.note(method, path, _readable(body), status)
            core.stats.http[path, method, f"{status // 100}xx"] += 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1") or None
        if not self._engine.is_authorised(scope["path"], authorization):
            await CompactJSON({"error": "Unauthorized"}, status_code=401)(scope, receive, send)
            return
        fault = self._engine.core.faults.take(scope["method"], scope["path"])
        if fault is None:
            await self._app(scope, receive, send)
            return
        if fault.after:
            await self._app(scope, receive, _discard)
        await asyncio.sleep(fault.delay)
        if fault.status is not None:
            answer = Response(fault.body, fault.status, {"content-type": fault.content_type})
            await answer(scope, receive, send)
        elif not fault.after:
            await self._app(scope, receive, send)


async def _discard(_: Message) -> None:
    """Where a lost answer goes."""


async def _buffered(receive: Receive) -> tuple[bytes, Receive]:
    """Read the whole body and make it readable again."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return body, receive_again


def _readable(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


class _Server(uvicorn.Server):
    """Leaves signals alone: `serve` handles them, and in a test they belong to the test."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def break_connections(self) -> None:
        """Close every connection in the middle of whatever it does."""
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()


class Double:
    """One engine on one port, which can be crashed, started again and terminated."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._port = settings.port
        self._server: _Server | None = None
        self._running: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.crashed = False
        self.engine = make_engine(settings)

    @property
    def port(self) -> int:
        """The port, also while it is closed."""
        return self._port

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self._settings.host}:{self._port}"

    def __str__(self) -> str:
        return self.url

    async def start(self) -> None:
        """Open the port with a fresh engine, after `startup_seconds` of refused connections."""
        listener = self._bind()
        try:
            await asyncio.sleep(self._settings.startup_seconds)
        except asyncio.CancelledError:
            listener.close()
            raise
        self.engine = make_engine(self._settings)
        self.crashed = False
        app = make_app(self.engine, crash=self.crash_soon, terminate=self.terminate_soon)
        config = uvicorn.Config(app, lifespan="off", log_level="warning", timeout_graceful_shutdown=None)
        self._server = _Server(config)
        self._running = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._running.done():
                self._running.result()
                raise RuntimeError("the double ended before it listened")
            await asyncio.sleep(0.005)

    async def crash(self) -> None:
        """Die at once: connections break, nothing is finished, adapters are forgotten."""
        if self._server is None:
            return
        self.crashed = True
        self._server.force_exit = True
        self._server.should_exit = True
        self._server.break_connections()
        await self._ended()

    async def terminate(self) -> None:
        """End as on SIGTERM, in the engine's own way."""
        if self._server is None:
            return
        await self.engine.drain()
        if self._server is not None:
            self._server.should_exit = True
        await self._ended()

    async def wait(self) -> None:
        """Until it ended, for whatever reason."""
        if self._running is not None:
            await asyncio.wait([self._running])

    def fault(self, path: str, **order: Any) -> None:
        """Order a fault; the keywords are the fields of `faults.Fault`."""
        self.engine.core.faults.order(control.fault_from({"path": path, **order}))

    def clear_faults(self) -> None:
        """No faults any more."""
        self.engine.core.faults.clear()

    def forget(self) -> None:
        """Lose all adapters, as a restart does."""
        self.engine.forget()

    @property
    def adapters(self) -> dict[str, str]:
        """The loaded adapters, name -> path."""
        return self.engine.adapters()

    @property
    def requests(self) -> list[Request]:
        """Every request since the start, oldest first."""
        return self.engine.core.faults.requests

    def calls(self, path: str, method: str | None = None) -> list[Request]:
        """The requests to one path."""
        return self.engine.core.faults.calls(path, method)

    def set_metrics(self, **samples: float) -> None:
        """Fix samples of `/metrics` by name; write `__` for the colon, e.g. `vllm__num_requests_waiting=7`."""
        self.engine.core.stats.fixed = {name.replace("__", ":", 1): value for name, value in samples.items()}

    def _bind(self) -> socket.socket:
        """Own the port without listening on it, so that connections are refused until uvicorn listens."""
        # asyncio switches Nagle's algorithm off only where the protocol is named; with it each answer takes 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._settings.host, self._port))
        self._port = listener.getsockname()[1]
        return listener

    async def _ended(self) -> None:
        if self._running is not None:
            await asyncio.wait([self._running])
        self._server = None

    def crash_soon(self) -> None:
        """`crash`, from where nothing can be awaited."""
        self._ending = asyncio.get_running_loop().create_task(self.crash())

    def terminate_soon(self) -> None:
        """`terminate`, from where nothing can be awaited."""
        self._ending = asyncio.get_running_loop().create_task(self.terminate())


@asynccontextmanager
async def running_double(engine: str = "vllm", **settings: Any) -> AsyncIterator[Double]:
    """A double in this process and loop, on a free port unless `port` is given.

    Args:
        engine: `vllm` or `sglang`.
        settings: fields of `Settings`. `/health` of SGLang takes no time unless asked for.
    """
    chosen = {"port": 0, "health_seconds": 0.0, **settings}
    double = Double(Settings(engine=EngineKind(engine), **chosen))
    await double.start()
    try:
        yield double
    finally:
        double.engine.core.batch.resume()
        await double.crash()


async def serve(settings: Settings, notes: Sequence[str] = ()) -> int:
    """Run a double as this process, until a signal or an ordered crash; returns the exit status.

    The notes are printed once signals are heeded.
    """
    if settings.node_rank:
        return await nodes.follow(settings, notes)
    double = Double(settings)
    loop = asyncio.get_running_loop()
    meeting = contextlib.AsyncExitStack()
    starting = loop.create_task(_start(double, settings, meeting))

    def end() -> None:
        if starting.done():
            double.terminate_soon()
        else:
            starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    for note in notes:
        print(f"engine double: {note}", flush=True)
    async with meeting:
        await asyncio.wait([starting])
        if starting.cancelled():
            return os.EX_OK
        starting.result()
        await double.wait()
    return CRASH_STATUS if double.crashed else os.EX_OK


async def _start(double: Double, settings: Settings, meeting: contextlib.AsyncExitStack) -> None:
    if settings.nodes > 1:
        await meeting.enter_async_context(nodes.gather(settings, double.crash_soon))
    await double.start()

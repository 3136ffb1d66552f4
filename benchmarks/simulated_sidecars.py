"""Sidecars by the thousand in one process, each on a loopback address of its own: what an operator meets in a fleet.

They speak the adapter part of the sidecar's API (`patio_protocol.adapters`), load at once or after a while, and have
neither engine nor files nor disk. Used by `benchmarks.fleet`, and by tests of the operator that need many sidecars, or
ones that die when they are told to. They believe every caller, and prove which pod they are in where they are told how.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from patio.credentials.sealing import SealedError, Sealing
from patio_protocol.adapters import (
    AdapterCapacity,
    AdapterList,
    AdapterReport,
    AdapterState,
    ErrorBody,
    ErrorDetail,
    LoadRequest,
    PreparedReport,
    PreparedState,
    UnloadAnswer,
    UnloadRequest,
)
from patio_protocol.credentials import HANDSHAKE_PATH, HandshakeAnswer, HandshakeRequest


def address(number: int) -> str:
    """Return the address of the sidecar of this number, from 0 on."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


@dataclass
class SimulatedSidecar:
    """One sidecar: what it has, and what it does with orders."""

    base_model: str = "tiny"
    room: int | None = None
    """Most adapters that can be loaded; None: the engine does not say."""
    load_seconds: float = 0.0
    refuses: ErrorDetail | None = None
    """With which it answers every order."""
    adapters: dict[str, AdapterReport] = field(default_factory=dict)
    orders: list[LoadRequest | UnloadRequest] = field(default_factory=list)
    """Every order that it took or refused, in turn, as it came."""
    sealing: Sealing | None = None
    """How it proves which pod it is in; None: it is too old to know about that."""
    handshake_refused: ErrorDetail | None = None
    """With which it answers every handshake."""
    trickles: bool = False
    """Whether its answers to orders never end."""
    opened: list[LoadRequest] = field(default_factory=list)
    """The orders that it took, with what was sealed in them."""
    bodies: list[bytes] = field(default_factory=list)
    """Everything that was sent to it."""
    looks: int = 0
    """How often it was asked for its adapters."""
    _version: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _answer: bytes = b""

    @property
    def revision(self) -> str:
        """Of the answer as it is now."""
        return f"r-{self._version}"

    def put(self, report: AdapterReport) -> None:
        """Have something loaded, or on its way, however it came there."""
        self.adapters[report.lora_name] = report
        self._touch()

    def drop(self, name: str) -> None:
        """Lose an adapter."""
        if self.adapters.pop(name, None) is not None:
            self._touch()

    def load(self, request: LoadRequest) -> AdapterReport:
        """Take an order."""
        before = self.adapters.get(request.lora_name)
        if request.prepare:
            prepared = PreparedReport(revision=request.revision, state=PreparedState.PREPARED, reason="Prepared")
            first = before or _report(request, AdapterState.PENDING, "Prepared")
            self.put(first.model_copy(update={"prepared": prepared}))
        elif self.load_seconds:
            self.put(_report(request, AdapterState.LOADING, "Loading"))
            asyncio.get_running_loop().call_later(self.load_seconds, self._loaded, request)
        else:
            self._loaded(request)
        return self.adapters[request.lora_name]

    async def adapters_after(self, revision: str | None, wait: float) -> bytes:
        """Return the answer to a look, once it is another than that of `revision`, or the wait is over."""
        self.looks += 1
        if revision == self.revision and wait:
            changed = self._changed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await changed.wait()
        if not self._answer:
            answer = AdapterList(
                revision=self.revision,
                engine="vllm",
                engine_ready=True,
                base_models=(self.base_model,),
                adapters=tuple(self.adapters.values()),
                capacity=AdapterCapacity(loaded=self.room),
            )
            self._answer = answer.model_dump_json().encode()
        return self._answer

    def _loaded(self, request: LoadRequest) -> None:
        self.put(_report(request, AdapterState.LOADED, "Loaded"))

    def _touch(self) -> None:
        self._version += 1
        self._answer = b""
        self._changed.set()
        self._changed = asyncio.Event()


_SIDECAR = web.RequestKey("sidecar", SimulatedSidecar)


class SimulatedFleet:
    """Sidecars behind addresses; `start` and `kill` are what the kubelet and a power cut do."""

    def __init__(self, sidecars: Iterable[SimulatedSidecar], port: int = 0) -> None:
        """`port` is the same on every address; 0: a free one of the first."""
        self.sidecars = {address(number): sidecar for number, sidecar in enumerate(sidecars)}
        self.port = port
        self._servers: dict[str, asyncio.Server] = {}
        self._connections: dict[str, set[asyncio.BaseTransport]] = {}
        app = web.Application(middlewares=[self._remember])
        app.router.add_get("/v1/lora_adapters", self._look)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post(HANDSHAKE_PATH, self._handshake)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_post("/simulated/kill", self._killed)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)

    async def __aenter__(self) -> SimulatedFleet:
        """Start them all."""
        await self._runner.setup()
        for where in self.sidecars:
            await self.start(where)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill them all."""
        for where in list(self._servers):
            self.kill(where)
        await self._runner.cleanup()

    async def start(self, where: str) -> None:
        """Have one listen."""
        assert self._runner.server is not None
        server = await asyncio.get_running_loop().create_server(self._runner.server, where, self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._servers[where] = server

    def kill(self, where: str) -> None:
        """Have one be gone, with its connections. What it has is kept for the next start."""
        self._servers.pop(where).close()
        for connection in self._connections.pop(where, set()):
            if isinstance(connection, asyncio.WriteTransport):
                connection.abort()

    @web.middleware
    async def _remember(self, request: web.Request, handler: Any) -> web.StreamResponse:
        assert request.transport is not None
        where = request.transport.get_extra_info("sockname")[0]
        self._connections.setdefault(where, set()).add(request.transport)
        request[_SIDECAR] = self.sidecars[where]
        answered: web.StreamResponse = await handler(request)
        return answered

    async def _look(self, request: web.Request) -> web.Response:
        query = request.query
        body = await request[_SIDECAR].adapters_after(query.get("revision"), float(query.get("wait", 0)))
        return web.Response(body=body, content_type="application/json")

    async def _load(self, request: web.Request) -> web.StreamResponse:
        order = LoadRequest.model_validate_json(await request.read())
        sidecar = request[_SIDECAR]
        sidecar.bodies.append(await request.read())
        sidecar.orders.append(order)
        if sidecar.trickles:
            return await _trickle(request)
        if sidecar.refuses is not None:
            return _refusal(sidecar.refuses)
        if sidecar.sealing is not None:
            try:
                sidecar.opened.append(sidecar.sealing.opened(order))
            except SealedError as error:
                return _refusal(ErrorDetail(code=error.code, message=error.message, retryable=error.retryable))
        return _json(sidecar.load(order), 202)

    async def _handshake(self, request: web.Request) -> web.Response:
        sidecar = request[_SIDECAR]
        sidecar.bodies.append(await request.read())
        if sidecar.handshake_refused is not None:
            return _refusal(sidecar.handshake_refused)
        if sidecar.sealing is None:
            return web.Response(status=404)
        answer = sidecar.sealing.answer(HandshakeRequest.model_validate_json(await request.read()))
        assert answer is not None
        return _json(answer, 200)

    async def _unload(self, request: web.Request) -> web.Response:
        order = UnloadRequest.model_validate_json(await request.read())
        sidecar = request[_SIDECAR]
        sidecar.orders.append(order)
        if sidecar.refuses is not None:
            return _refusal(sidecar.refuses)
        sidecar.drop(order.lora_name)
        return _json(UnloadAnswer(lora_name=order.lora_name, unloaded=True), 200)

    async def _killed(self, request: web.Request) -> web.Response:
        self.kill(request.query["address"])
        return web.Response()


def _report(request: LoadRequest, state: AdapterState, reason: str) -> AdapterReport:
    loaded = state is AdapterState.LOADED
    return AdapterReport(
        lora_name=request.lora_name,
        lora_path=request.lora_path,
        source=request.source,
        owner=request.owner,
        revision=request.revision,
        state=state,
        reason=reason,
        since=0.0,
        held_revision=request.revision if loaded else None,
        credentials_revision=request.credentials_revision,
    )


def _json(answer: AdapterReport | UnloadAnswer | HandshakeAnswer, status: int) -> web.Response:
    return web.Response(body=answer.model_dump_json().encode(), content_type="application/json", status=status)


async def _trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


def _refusal(detail: ErrorDetail) -> web.Response:
    body = ErrorBody(error=detail).model_dump_json().encode()
    return web.Response(body=body, content_type="application/json", status=503 if detail.retryable else 409)


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--room", type=int, help="adapters that fit on each")
    parser.add_argument("--load-seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    sidecars = [
        SimulatedSidecar(room=arguments.room, load_seconds=arguments.load_seconds) for _ in range(arguments.count)
    ]
    async with SimulatedFleet(sidecars) as fleet:
        print(fleet.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())

"""The forwarder as an ASGI application: probes, and the paths of `routes`, each request within the limit.

A request has a permit from its first byte to the last byte of its answer, so streams count until they end. Its body is
read whole, within bounds, before the engine gets any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from signal import SIGTERM
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from patio_gateway.forwarder import answers
from patio_gateway.forwarder.config import Config
from patio_gateway.forwarder.payload import Call, PayloadError, is_json, read_call
from patio_gateway.forwarder.permits import OwnPermits, Permits
from patio_gateway.forwarder.readiness import Readiness, readiness_client
from patio_gateway.forwarder.relay import ClientStalledError, Incoming, Outgoing, Relay, engine_client, unless_hung_up
from patio_gateway.forwarder.routes import ALL_METHODS, METHODS, ForwardedRoute, engine_of, routes
from patio_gateway.logs import set_up_logging
from patio_gateway.request_bodies import Bodies, NoRoomError, TooLargeError, TooSlowError

log = logging.getLogger(__name__)

CUT_SECONDS = 5.0
"""How long requests that are cut may take to end."""


@dataclass(frozen=True)
class Limits:
    """What the forwarder takes."""

    most_body: int = 32 * 1024 * 1024
    """Bytes of a body."""
    most_kept: int = 256 * 1024 * 1024
    """Bytes of all bodies that a process keeps at a time."""
    body_seconds: float = 120.0
    """How long a body may take to come."""
    stall_seconds: float = 300.0
    """How long a client may take nothing of an answer: it would keep its permit."""


def build(
    config: Config,
    permits: Permits | None = None,
    limits: Limits | None = None,
    client: httpx.AsyncClient | None = None,
) -> Starlette:
    """Return the application.

    Args:
        config: what is forwarded where.
        permits: of `config.max_concurrency` requests; None: those of this process alone.
        limits: what the forwarder takes.
        client: for requests to the engine; the application closes it. By default it makes one.

    Raises:
        ConfigError: a route of the config cannot be used.

    """
    limits = limits or Limits()
    permits = permits if permits is not None else OwnPermits(config.max_concurrency)
    engine, health = client or engine_client(), readiness_client()
    readiness = Readiness(health, [(engine_of(each), each.healthcheck_route) for each in config.forwardings])
    relay, bodies, in_flight = (
        Relay(engine),
        Bodies(limits.most_body, limits.most_kept, limits.body_seconds),
        InFlight(),
    )

    async def healthy(_: Request) -> Response:
        return JSONResponse("OK")

    async def ready(_: Request) -> Response:
        reason = await readiness.reason_against()
        return JSONResponse("OK") if reason is None else _response(answers.not_ready(reason))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with engine, health:
            yield
            # Those that were cut when the time to drain was over close the engine's connection and say so.
            await in_flight.ended(CUT_SECONDS)

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/healthz", healthy),
            Route("/readyz", ready),
            *(
                Route(
                    route.path,
                    Endpoint(route, relay, permits, bodies, in_flight, limits),
                    methods=ALL_METHODS if route.passthrough is not None else METHODS,
                )
                for route in routes(config)
            ),
        ],
        exception_handlers={HTTPException: _no_route},
    )


def worker(config: Config, permits: Permits) -> Starlette:
    """Return the application of a process that the forwarder spawned; the process ends with the forwarder."""
    set_up_logging()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return build(config, permits)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), SIGTERM)


def _response(answer: answers.Answer) -> Response:
    return JSONResponse({"detail": answer.detail}, answer.status, answer.headers)


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


class InFlight:
    """How many requests have no complete answer yet."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self, seconds: float) -> None:
        """Wait until there are none, for at most some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none.wait()


class Endpoint:
    """What answers the requests of a path."""

    def __init__(
        self,
        route: ForwardedRoute,
        relay: Relay,
        permits: Permits,
        bodies: Bodies,
        in_flight: InFlight,
        limits: Limits,
    ) -> None:
        self._route = route
        self._relay = relay
        self._permits = permits
        self._bodies = bodies
        self._in_flight = in_flight
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, within the limit."""
        out = Outgoing(send, self._limits.stall_seconds)
        permit = self._permits.take()
        if permit is None:
            await out.say(answers.TOO_MANY)
            return
        with self._in_flight:
            try:
                await self._admitted(scope, receive, out)
            except ClientStalledError:
                # Without the end of its answer uvicorn closes the connection.
                log.warning("client_stalled path=%s", json.dumps(self._route.path))
            except asyncio.CancelledError:
                # uvicorn cancels what is left when the time to drain is over, and would log a traceback for each.
                log.warning("request_cut path=%s started=%s", json.dumps(self._route.path), str(out.started).lower())
                if not out.started:
                    await out.say(answers.STOPPING)
            finally:
                self._permits.give_back(permit)

    async def _admitted(self, scope: Scope, receive: Receive, out: Outgoing) -> None:
        # What is before an engine might resolve them, and the request would leave the routes of the config.
        if {".", ".."} & set(scope["path"].split("/")):
            await out.say(answers.BAD_PATH)
            return
        try:
            async with self._bodies.read_whole(Request(scope, receive)) as body:
                incoming = Incoming.of(scope, body)
                work = self._forwarded(incoming, scope["path"], Request(scope).headers.get("content-type", ""), out)
                if not await unless_hung_up(receive, work):
                    log.info("client_hung_up path=%s", json.dumps(self._route.path))
        except TooLargeError:
            await out.say(answers.too_large(self._limits.most_body))
        except TooSlowError:
            await out.say(answers.too_slow(self._limits.body_seconds))
        except NoRoomError:
            await out.say(answers.NO_ROOM)
        except ClientDisconnect:
            log.info("client_hung_up path=%s", json.dumps(self._route.path))

    def _forwarded(self, incoming: Incoming, path: str, content_type: str, out: Outgoing) -> Coroutine[Any, Any, None]:
        """Return what answers the request."""
        route = self._route
        if route.passthrough is not None:
            return self._relay.passed(incoming, route.passthrough, out)
        try:
            call = read_call(incoming.body) if is_json(content_type) else None
        except PayloadError as error:
            return out.say(answers.unreadable(str(error)))
        if call is not None:
            return self._called(incoming, call, path, out)
        _, target = route.sync or route.stream or (None, None)
        assert target is not None
        return self._relay.passed(incoming, target, out)

    def _called(self, incoming: Incoming, call: Call, path: str, out: Outgoing) -> Coroutine[Any, Any, None]:
        sync, stream = self._route.sync, self._route.stream
        if call.stream and stream is None:
            return out.say(answers.no_stream(path[: answers.MOST_REASON]))
        if call.stream is False and sync is None:
            return out.say(answers.stream_alone(path[: answers.MOST_REASON]))
        if stream is not None and (call.stream or sync is None):
            config, target = stream
            return self._relay.events(incoming, target, call, config, out)
        assert sync is not None
        single, target = sync
        return self._relay.single(incoming, target, call, single, out)

"""The front as an ASGI application: `build` is what the gateway serves on a Unix socket, to Envoy and control.

Envoy has checked the key and read the model's name: headers say the client (`x-patio-client`), the name
(`x-patio-model`), and whether the client may not use it (`x-patio-denied`). Requests from outside lose these headers,
and get `x-patio-admitted`, which closes what only control and Prometheus read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patio_gateway.front import answers, checks
from patio_gateway.front.access import visible
from patio_gateway.front.answers import Answer
from patio_gateway.front.catalog import model_entry, model_list
from patio_gateway.front.demand import Demand, as_json
from patio_gateway.front.forwarding import Forwarder, WorkersFailedError, renamed
from patio_gateway.front.holder import Asking, Clock, Holder, Outcome
from patio_gateway.front.knowledge import Knowledge
from patio_gateway.front.metrics import Metrics
from patio_gateway.front.overview import overview
from patio_gateway.front.page import PAGE_HEADERS, asset
from patio_gateway.front.queue.queues import Bounds
from patio_gateway.front.rounds import MOST_ROUNDS, Round, Rounds
from patio_gateway.request_bodies import Bodies, Body, NoRoomError, TooLargeError
from patio_gateway.rights import PAGE, PROBES, READINESS
from patio_gateway.snapshot import Model

T = TypeVar("T")

log = logging.getLogger(__name__)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
HUNG_UP = 499
"""What is counted for a client that hung up; nobody reads it."""

MOST_FALLBACK_BYTES = 8 * 1024 * 1024
"""A longer body is not sent to a fallback: the name of the model in it has to be changed."""


@dataclass(frozen=True)
class Limits:
    """What the front takes."""

    most_body: int = 32 * 1024 * 1024
    """Bytes of a body."""
    most_kept: int = 64 * 1024 * 1024
    """Bytes of bodies that the front itself looks at, at a time."""
    held: Bounds = field(default_factory=Bounds)
    longest_poll: float = 30.0
    """Seconds that `GET /demand` waits for a change."""


def build(
    knowledge: Knowledge,
    *,
    clock: Clock | None = None,
    limits: Limits | None = None,
    client: httpx.AsyncClient | None = None,
) -> FrontApp:
    """Return the front.

    Args:
        knowledge: the newest snapshot that Envoy has.
        clock: by default the machine's.
        limits: what the front takes.
        client: for requests to workers of fallbacks; the caller closes it. By default the front makes one.

    """
    limits = limits or Limits()
    clock = clock or Clock(time.monotonic, time.time)
    metrics = Metrics()
    holder = Holder(knowledge, clock, limits.held, metrics)
    metrics.lengths = lambda: {each.endpoint: each.held for each in holder.demand()}
    own_client = client is None
    workers = client or httpx.AsyncClient(
        timeout=httpx.Timeout(None, connect=2.0, pool=5.0),
        trust_env=False,
        # None is kept: an engine that closes an idle connection at that moment would lose a request.
        limits=httpx.Limits(max_connections=1000, max_keepalive_connections=0),
    )
    front = Front(knowledge, holder, metrics, Bodies(limits.most_body, limits.most_kept), limits, clock, workers)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if own_client:
                await stack.enter_async_context(workers)
            yield

    app = Starlette(
        lifespan=lifespan,
        routes=[
            *(Route(path, front.ready if path == READINESS else front.healthy) for path in PROBES),
            *(Route(path, front.page) for path in PAGE),
            Route("/overview", front.overview),
            Route("/demand", front.demand),
            Route("/metrics", front.metrics),
            *(Route(f"/{version}/models", front.models) for version in ("v1", "v2")),
            *(Route(f"/{version}/models/{{name:path}}", front.model) for version in ("v1", "v2")),
            Route("/{path:path}", front.request, methods=METHODS),
        ],
        exception_handlers={HTTPException: front.no_route, Exception: front.failed},
    )
    return FrontApp(app, metrics, holder)


class Front:
    """The answers of the front."""

    def __init__(
        self,
        knowledge: Knowledge,
        holder: Holder,
        metrics: Metrics,
        bodies: Bodies,
        limits: Limits,
        clock: Clock,
        client: httpx.AsyncClient,
    ) -> None:
        self._knowledge = knowledge
        self._holder = holder
        self._metrics = metrics
        self._bodies = bodies
        self._limits = limits
        self._clock = clock
        self._forwarder = Forwarder(client)
        self._rounds = Rounds()

    async def healthy(self, _: Request) -> Response:
        """Answer that the front serves."""
        return Response(status_code=200)

    async def ready(self, _: Request) -> Response:
        """Answer whether the gateway knows its models and takes requests for them."""
        if self._knowledge.ready and not self._holder.stopping:
            return Response(status_code=200)
        return _response(answers.starting() if not self._knowledge.ready else answers.stopping())

    async def page(self, request: Request) -> Response:
        """Serve the page for people, which has no data in it."""
        content, media_type = asset(request.url.path)
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    async def overview(self, request: Request) -> Response:
        """Say what the page shows, to a client with a key."""
        client = request.headers.get("x-patio-client")
        snapshot = self._knowledge.snapshot
        if snapshot.closed and client is None:
            return _response(answers.key_needed())
        content = overview(visible(snapshot, client), self._holder.demand(), client)
        return JSONResponse(content, headers={"cache-control": "no-store"})

    async def demand(self, request: Request) -> Response:
        """Say the demand, to control alone: at once, or when it is another one than `?after=VERSION`."""
        if _from_outside(request):
            return _response(answers.no_path(request.method, request.url.path))
        after = request.query_params.get("after", "")
        if after:
            if not (after.isascii() and after.isdigit() and len(after) <= 20):
                return _response(answers.invalid_query("after", "a version, which is a whole number"))
            waiting = self._holder.changed(int(after), self._limits.longest_poll)
            await _unless_hung_up(waiting, request.receive)
        return JSONResponse(as_json(self._holder.version, self._holder.demand()))

    async def metrics(self, request: Request) -> Response:
        """Say the metrics, to Prometheus alone."""
        if _from_outside(request):
            return _response(answers.no_path(request.method, request.url.path))
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, request: Request) -> Response:
        """List the models that the client may use."""
        if not self._knowledge.ready:
            return _response(answers.starting())
        shown = visible(self._knowledge.snapshot, request.headers.get("x-patio-client"))
        return JSONResponse(model_list(shown))

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        if not self._knowledge.ready:
            return _response(answers.starting())
        name = request.path_params["name"]
        entry = model_entry(visible(self._knowledge.snapshot, request.headers.get("x-patio-client")), name)
        return _response(answers.unknown_model(name)) if entry is None else JSONResponse(entry)

    async def request(self, request: Request) -> Response:
        """Answer a request that Envoy found no worker for: hold it, or say why it is not held."""
        if not self._knowledge.ready:
            return _response(answers.starting())
        name = request.headers.get("x-patio-model", "")
        found = self._holder.index.find(name)
        if name and (found is None or "x-patio-denied" in request.headers):
            return _response(answers.unknown_model(name))
        if not name and request.method not in WITH_BODY:
            return _response(answers.no_path(request.method, request.url.path))
        asleep = found is not None and not found[0].workers and not found[0].can_wake
        try:
            async with self._bodies.read(request, MOST_FALLBACK_BYTES if asleep else checks.MOST_BYTES) as body:
                wrong = _problem(request, body)
                if wrong is not None or found is None:
                    return _response(wrong or _without_model(body))
                model, adapter = found
                if asleep:
                    return await self._fall_back(request, model, body)
        except TooLargeError:
            return _response(answers.too_large(self._limits.most_body))
        except NoRoomError:
            return _response(answers.no_room())
        except ClientDisconnect:
            return Response(status_code=HUNG_UP)
        return await self._hold(request, model, adapter, body.size)

    async def no_route(self, request: Request, error: Exception) -> Response:
        """Answer what no route takes."""
        status = error.status_code if isinstance(error, HTTPException) else 404
        if status == 405:
            return _response(answers.wrong_method(request.method, request.url.path))
        return _response(answers.no_path(request.method, request.url.path))

    async def failed(self, request: Request, error: Exception) -> Response:
        """Answer when the front itself failed."""
        log.error("answer_failed path=%r error=%r", request.url.path[:256], error)
        return _response(answers.failed())

    async def _hold(self, request: Request, model: Model, adapter: str | None, size: int) -> Response:
        client = request.headers.get("x-patio-client", "")
        key = (client, request.headers.get("x-request-id", ""))
        now = self._clock.monotonic()
        # Envoy gives each request an id; without one it did not come from Envoy, and cannot come back.
        current = self._rounds.begin(key, now, model.queue.timeout + 60.0) if key[1] else Round(0, now)
        if current.number >= MOST_ROUNDS:
            self._rounds.end(key)
            return _response(answers.sent_back_too_often(self._newest(model)))
        waiting = self._holder.hold(model, adapter, Asking(client, size, current))
        outcome = await _unless_hung_up(waiting, request.receive)
        if outcome is Outcome.READY:
            return _sent_again(request)
        self._rounds.end(key)
        newest = self._newest(model)
        match outcome:
            case Outcome.MODEL_FULL:
                return _response(answers.model_full(newest))
            case Outcome.GATEWAY_FULL:
                return _response(answers.gateway_full(newest))
            case Outcome.LATE:
                return _response(answers.too_late(newest, adapter, model.queue.timeout))
            case Outcome.STOPPING:
                return _response(answers.stopping())
            case Outcome.DELETED:
                return _response(answers.unknown_model(adapter or model.names[0]))
        return Response(status_code=HUNG_UP)

    async def _fall_back(self, request: Request, model: Model, body: Body) -> Response:
        """Answer by the first fallback that has a worker and that the client may use."""
        allowed = visible(self._knowledge.snapshot, request.headers.get("x-patio-client"))
        for name in model.routing.fallbacks:
            found = self._holder.index.find(name)
            if found is None or found[1] is not None or not found[0].workers or found[0] not in allowed:
                continue
            content = renamed(body.kept, name) if body.kept is not None else None
            if content is None:
                break
            try:
                answer = await _unless_hung_up(self._forwarder.forward(request, content, found[0]), request.receive)
            except WorkersFailedError as error:
                return _response(answers.fallback_failed(model, str(error)))
            return answer or Response(status_code=HUNG_UP)
        return _response(answers.disabled(model))

    def _newest(self, model: Model) -> Model:
        """Return a model as it is known now: its start has gone on while the request waited."""
        return self._holder.index.endpoints.get(model.endpoint, model)


class FrontApp:
    """The application: it counts its answers by status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, holder: Holder) -> None:
        self._app = app
        self._metrics = metrics
        self._holder = holder

    def demand(self) -> tuple[Demand, ...]:
        """Return the demand that the front knows of, now."""
        return self._holder.demand()

    @property
    def demand_version(self) -> int:
        """Grows whenever that demand is another one."""
        return self._holder.version

    async def demand_changed(self, after: int, seconds: float) -> None:
        """Wait until the version is another one than `after`, or for some seconds."""
        await self._holder.changed(after, seconds)

    def stop_holding(self) -> None:
        """Answer every request that waits with 503, and hold no other one: before the gateway ends."""
        self._holder.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(message["status"])
            await send(message)

        await self._app(scope, receive, counted)


def _from_outside(request: Request) -> bool:
    return "x-patio-admitted" in request.headers


def _problem(request: Request, body: Body) -> Answer | None:
    if request.method != "POST" or body.kept is None:
        return None
    wrong = checks.problem(request.url.path, request.headers.get("content-type", ""), body.kept)
    return answers.invalid_body(*wrong) if wrong is not None else None


def _without_model(body: Body) -> Answer:
    """Return the answer to a body without a model that Envoy could read: it has none, or an odd one."""
    name = checks.model_in(body.kept or b"")
    return answers.unknown_model(name) if name else answers.no_model()


def _sent_again(request: Request) -> Response:
    """Return what makes Envoy send the request again: an absolute URL, since it refuses a relative one."""
    host = request.headers.get("host", "localhost")
    scheme = request.headers.get("x-forwarded-proto", "http")
    target = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    location = f"{scheme}://{host}{target}" + (f"?{query}" if query else "")
    return Response(status_code=307, headers={"location": location, "x-patio-held": "1"})


def _response(answer: Answer) -> Response:
    return JSONResponse(answer.body(), answer.status, headers=dict(answer.headers))


async def _unless_hung_up(waiting: Awaitable[T], receive: Receive) -> T | None:
    """Return what is waited for, or None when the client hung up first."""
    task = asyncio.ensure_future(waiting)
    hanging_up = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait([task, hanging_up], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, hanging_up):
            each.cancel()
        await asyncio.gather(task, hanging_up, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

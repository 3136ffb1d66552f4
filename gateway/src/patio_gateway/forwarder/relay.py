"""Sends a request to the engine, and brings the answer to the client in one of three ways.

`passed` changes no byte; `single` wraps one answer; `events` wraps each event of a stream as it comes. A client that
hangs up ends the call here, which closes the engine's connection, so that the engine stops. Connections are kept and
used again. When the engine fails before the client got anything, the client gets an answer that says so; afterwards the
client's connection is closed without an end, because the stream is not whole.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.types import Message, Receive, Scope, Send

from patio_gateway.bounded_body import TooLongError, read_body
from patio_gateway.forwarder import answers
from patio_gateway.forwarder.answers import Answer
from patio_gateway.forwarder.config import Forwarding, Stream, Sync
from patio_gateway.forwarder.events import EventReader, EventTooLongError
from patio_gateway.forwarder.payload import WITHOUT_BODY, Call, error_detail, event_of, wrapped
from patio_gateway.forwarder.routes import Engine, Target

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

SILENCE_SECONDS = 1200.0
"""Without a byte from the engine; upstream's process manager ends a request then too."""

KEEP_SECONDS = 2.0
"""An engine's connection without a request is closed after it: vLLM and SGLang (uvicorn) close theirs after 5 s, and a
request on a connection that closes just then is lost."""

CONNECT_SECONDS = 5.0
MOST_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer that is wrapped. What passes through has no bound: it is not kept."""

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
"""Headers about a connection."""
NOT_TO_ENGINE = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
WITH_CALLS = frozenset({b"traceparent", b"tracestate", b"baggage", b"x-request-id"})
"""What the engine gets of the client's headers with a call that is unwrapped."""
EVENT_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def engine_client(silence_seconds: float = SILENCE_SECONDS) -> httpx.AsyncClient:
    """Return a client for engines; the caller closes it."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=KEEP_SECONDS),
        trust_env=False,
    )


class ClientStalledError(Exception):
    """A client did not take what was sent to it."""


class Outgoing:
    """The answer to a client, as far as it is. Each method raises `ClientStalledError`."""

    def __init__(self, send: Send, stall_seconds: float) -> None:
        """`stall_seconds` is how long a client may take no byte while there are some."""
        self._send_message = send
        self._stall_seconds = stall_seconds
        self.started = False

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def more(self, body: bytes) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        """Send the last part."""
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._send_message(message)
        except TimeoutError:
            raise ClientStalledError from None

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send all of it."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.end(body)

    async def say(self, answer: Answer) -> None:
        """Send an answer of the forwarder's own."""
        headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        body = json.dumps({"detail": answer.detail}, separators=(",", ":")).encode()
        await self.whole(answer.status, [(b"content-type", b"application/json"), *headers], body)


@dataclass(frozen=True)
class Incoming:
    """What is sent on of a client's request."""

    method: str
    path: bytes
    """As it came: with its escapes, without the query."""
    query: bytes
    headers: Headers
    body: bytes

    @classmethod
    def of(cls, scope: Scope, body: bytes) -> Incoming:
        """Return what is sent on of a request."""
        return cls(scope["method"], scope["raw_path"], scope["query_string"], scope["headers"], body)


class Relay:
    """The connections to the engine."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def passed(self, incoming: Incoming, target: Target, out: Outgoing) -> None:
        """Send a request and its answer on as they are."""
        path = incoming.path if target.path is None else target.path.encode()
        raw_path = path + (b"?" + incoming.query if incoming.query else b"")
        headers = _without(incoming.headers, NOT_TO_ENGINE)
        async with (
            self._failing(target.engine, out),
            self._sent(target.engine, incoming.method, raw_path, headers, incoming.body) as answer,
        ):
            await out.start(answer.status_code, _without(answer.headers.raw, HOP_BY_HOP))
            async for chunk in answer.aiter_raw():
                await out.more(chunk)
            await out.end()

    async def single(self, incoming: Incoming, target: Target, call: Call, config: Sync, out: Outgoing) -> None:
        """Send a call on, and its answer when it is complete."""
        async with self._failing(target.engine, out), self._called(incoming, target, call, config) as answer:
            body = await read_body(answer, MOST_ANSWER)
            headers = _some(answer.headers.raw, {b"retry-after"})
            if config.wrap_response:
                as_string = config.serialize_results_as_string if call.as_string is None else call.as_string
                body = wrapped(body, as_string, answer.status_code if config.forward_http_status_in_body else None)
                headers.append((b"content-type", b"application/json"))
            else:
                headers += _some(answer.headers.raw, {b"content-type"})
            status = answer.status_code if config.forward_http_status else 200
            await out.whole(200 if status in WITHOUT_BODY else status, headers, body)

    async def events(self, incoming: Incoming, target: Target, call: Call, config: Stream, out: Outgoing) -> None:
        """Send a call on, and each event as it comes; an error of the engine keeps its status."""
        async with self._failing(target.engine, out), self._called(incoming, target, call, config) as answer:
            if answer.status_code != 200:
                body = error_detail(await read_body(answer, MOST_ANSWER))
                headers = [*_some(answer.headers.raw, {b"retry-after"}), (b"content-type", b"application/json")]
                status = answer.status_code
                await out.whole(502 if status in WITHOUT_BODY else status, headers, body)
                return
            as_string = config.serialize_results_as_string if call.as_string is None else call.as_string
            async for data in _data_of(answer):
                if not out.started:
                    await out.start(200, EVENT_HEADERS)
                await out.more(b"".join(event_of(each, as_string) for each in data))
            if not out.started:
                await out.start(200, EVENT_HEADERS)
            await out.end()

    @asynccontextmanager
    async def _called(
        self, incoming: Incoming, target: Target, call: Call, config: Forwarding
    ) -> AsyncIterator[httpx.Response]:
        path = incoming.path if target.path is None else target.path.encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"accept", b"application/json, text/event-stream"),
            (b"accept-encoding", b"identity"),
            *_some(incoming.headers, WITH_CALLS),
        ]
        content = call.args if config.model_engine_unwrap else incoming.body
        async with self._sent(target.engine, "POST", path, headers, content) as answer:
            yield answer

    @asynccontextmanager
    async def _sent(
        self, engine: Engine, method: str, path: bytes, headers: Headers, body: bytes
    ) -> AsyncIterator[httpx.Response]:
        url = httpx.URL(scheme="http", host=engine.host, port=engine.port, raw_path=path)
        # Not the client's own way to build it: that adds headers, and cookies of other clients.
        request = httpx.Request(method, url, headers=headers, content=body or None)
        answer = await self._client.send(request, stream=True)
        try:
            yield answer
        finally:
            await answer.aclose()

    @asynccontextmanager
    async def _failing(self, engine: Engine, out: Outgoing) -> AsyncIterator[None]:
        """Tell the client when the engine fails within the context."""
        try:
            yield
        except httpx.InvalidURL as error:
            await _fail(out, answers.LONG_PATH, error)
        except httpx.LocalProtocolError as error:
            await _fail(out, answers.BAD_HEADER, error)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            await _fail(out, answers.unreachable(engine.address), error)
        except httpx.TimeoutException as error:
            await _fail(out, answers.silent(engine.address, self._client.timeout.read or 0.0), error)
        except (TooLongError, EventTooLongError) as error:
            await _fail(out, answers.too_long(engine.address, str(error)), error)
        except (httpx.TransportError, httpx.DecodingError) as error:
            await _fail(out, answers.broken_off(engine.address), error)


async def _data_of(answer: httpx.Response) -> AsyncIterator[list[str]]:
    """Yield the data of events that came together; that of an answer without events as a single one."""
    content_type = answer.headers.get("content-type", "")
    if content_type and not content_type.lower().startswith("text/event-stream"):
        yield [(await read_body(answer, MOST_ANSWER)).decode("utf-8", "replace")]
        return
    reader = EventReader()
    async for chunk in answer.aiter_bytes():
        if data := reader.feed(chunk):
            yield data
    if data := reader.finish():
        yield data


async def _fail(out: Outgoing, answer: Answer, error: Exception) -> None:
    """Tell the client of a failure. After the head of an answer its connection ends without the end of the body."""
    log.warning(
        "engine_failed started=%s detail=%s error=%s",
        str(out.started).lower(),
        json.dumps(answer.detail),
        json.dumps(f"{type(error).__name__}: {error}"[:256]),
    )
    if not out.started:
        await out.say(answer)


async def unless_hung_up(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work of a request whose body was read; cancel it when the client hangs up, and return False then."""
    working, watching = asyncio.create_task(work), asyncio.create_task(_hang_up(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
    if working.cancelled():
        return False
    working.result()
    return True


async def _hang_up(receive: Receive) -> None:
    message: Message = {}
    while message.get("type") != "http.disconnect":
        message = await receive()


def _without(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> Headers:
    """Return headers without these, and without those that `Connection` names."""
    kept = [(name.lower(), value) for name, value in headers]
    listed = b",".join(value for name, value in kept if name == b"connection").lower().split(b",")
    names = dropped | {name.strip() for name in listed}
    return [(name, value) for name, value in kept if name not in names]


def _some(headers: Iterable[tuple[bytes, bytes]], names: set[bytes] | frozenset[bytes]) -> Headers:
    return [(name.lower(), value) for name, value in headers if name.lower() in names]

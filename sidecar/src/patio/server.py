"""The sidecar's HTTP server: uvicorn, with limits on what strangers can hold, and an end that waits for a drain.

Made by `app`, serves the application of `routes`. Connections, heads, bodies and answers each have a time in which
they must get on, and places are shared by peer (`access.connection_limits`), so that a probe is answered while
strangers hold all that they can. uvicorn's own `limit_concurrency` is not used: it answers everyone with 503, the
kubelet as well.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import Server as UvicornServer
from uvicorn.server import ServerState

from patio.access.connection_limits import MOST_CONNECTIONS, MOST_OF_A_PEER, ConnectionLimits
from patio.access.limits import MAX_HEADER_BYTES, MAX_TARGET
from patio.access.loopback import address_of
from patio.drain.drain import Drain
from patio.logs import LineLimit
from patio.variables import SettingsError
from patio_protocol.adapters import ErrorBody, ErrorDetail
from patio_protocol.authentication import MAX_BODY

log = logging.getLogger(__name__)

LEAVE_SECONDS = 5
"""How long running requests, and leaving the routers, may take after SIGTERM."""
HEAD_SECONDS = 10.0
"""In which the head of a request has to be whole, from when the connection could begin with it."""
BODY_SECONDS = 30.0
"""In which a body has to be whole, also one that no route reads. The guard gives up before, with an answer."""
STALLED_SECONDS = 30.0
"""In which a caller has to take its answer; a large one, in parts."""
MOST_UNSENT = 64 * 2**20
"""Bytes of answers, over all connections, that wait for callers to take them."""
COUNTED_FROM = 64 * 1024
"""Bytes of one answer from which all are counted."""
MOST_OF_BODY = 2 * MAX_BODY
"""Bytes that come after a head. No route takes half of it, but a client may not have seen yet that it is rejected."""
READ_AT_ONCE = 32 * 1024
"""Bytes. h11 takes 1 ms for a thousand headers or 200 chunks of a byte, and nothing else runs meanwhile."""
BACKLOG = 256
"""Connections that the kernel keeps for us; asyncio also tries to accept as many at once."""
SHARE_OF_FILES = 0.5
"""Of the files that this process may have open, how many may be connections of callers."""
NO_RESOURCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def _raw(status: str, code: str, message: str) -> bytes:
    body = ErrorBody(error=ErrorDetail(code=code, message=message, retryable=True)).model_dump_json()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body.encode())}\r\n"
    return f"{head}retry-after: 5\r\nconnection: close\r\n\r\n{body}".encode()


_TOO_MANY = _raw(
    "503 Service Unavailable", "TooManyConnections", "Too many connections are open, from this caller or in total."
)
_UNREADABLE = ErrorBody(
    error=ErrorDetail(code="InvalidRequest", message="This is not an HTTP/1.1 request.", retryable=False)
)


class Connection(H11Protocol):
    """One connection: uvicorn's, and the times and limits that it has to keep."""

    def __init__(
        self,
        limits: ConnectionLimits[Connection],
        lines: LineLimit,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._lines = lines
        self._awaited: object = None
        """Which part of a request is to come: None, or the state of the caller in h11's words."""
        self._of_body = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> str:
        """The address at the other end."""
        return (address_of(self.client[0]) if self.client else None) or ""

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take part, unless there are too many."""
        super().connection_made(transport)
        transport.max_size = READ_AT_ONCE  # type: ignore[attr-defined]  # asyncio's, without a way to pass it
        leaver = self._limits.enter(self, self.peer)
        if leaver is not None:
            leaver.turn_away()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nothing behind."""
        self._limits.leave(self)
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Go on with what came, unless this connection is to go."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._expect()
        self._of_body = self._of_body + len(data) if self._awaited is h11.SEND_BODY else 0
        if self._of_body > MOST_OF_BODY:
            self._close()

    def on_response_complete(self) -> None:
        """Go on, once the caller has taken the answer."""
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            self._await_progress()
        if unsent > COUNTED_FROM:
            self._bound_unsent()
        # uvicorn's own time for unused connections runs from here; `_expect` goes on when something comes.
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The caller does not take its answer: not for long."""
        super().pause_writing()
        self._await_progress()

    def resume_writing(self) -> None:
        """It takes it: what is left has its own time."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self.transport.get_write_buffer_size():
            self._await_progress()

    def turn_away(self) -> None:
        """Close this connection for another one, with an answer where it has had none."""
        if self.idle and not self.transport.is_closing():
            self.transport.write(_TOO_MANY)
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()
        # What the kernel does not take is not waited for.
        self.loop.call_soon(self.transport.abort)
        suppressed = self._lines.take()
        if suppressed is not None:
            log.warning(
                "connection closed to make room peer=%s open=%d suppressed=%d",
                self.peer,
                len(self._limits),
                suppressed,
            )

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the one shape of errors, where an answer can still be given."""
        suppressed = self._lines.take()
        if suppressed is not None:
            log.info("unreadable request peer=%s suppressed=%d", self.peer, suppressed)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = _UNREADABLE.model_dump_json().encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        answer = h11.Response(status_code=400, headers=[*headers, (b"connection", b"close")], reason=b"Bad Request")
        try:
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        except h11.LocalProtocolError:
            pass  # an answer was being sent, or had been sent
        self._close()

    def shutdown(self) -> None:
        """Begin the end of this connection; one that is broken already ends all the same."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that is not used."""
        if not self.transport.is_closing():
            self._close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: anybody can ask for an upgrade, and is answered as if not."""

    def _expect(self) -> None:
        """Measure the time of the part of a request that is to come now."""
        state = self.conn.their_state
        awaited = state if state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing() else None
        if awaited is self._awaited:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._awaited = awaited
        if awaited is not None:
            seconds = HEAD_SECONDS if awaited is h11.IDLE else BODY_SECONDS
            self._deadline = self.loop.call_later(seconds, self._close)

    def _await_progress(self) -> None:
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_SECONDS, self._judge_progress)

    def _judge_progress(self) -> None:
        self._stalled = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _bound_unsent(self) -> None:
        """Have the caller with the most of its answer untaken lose it, when all have too much."""
        sizes = {connection: connection.transport.get_write_buffer_size() for connection in self.server_connections}
        if len(sizes) > 1 and sum(sizes.values()) > MOST_UNSENT:
            max(sizes, key=lambda connection: sizes[connection]).transport.abort()

    @property
    def server_connections(self) -> list[Connection]:
        """All connections of this server."""
        return [connection for connection in self.connections if isinstance(connection, Connection)]

    def _close(self) -> None:
        """Close, and do not wait longer for the caller to take what is left than for any answer."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._await_progress()

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        self._deadline = self._stalled = None


def configured(app: Callable[..., Any], files: int) -> Config:
    """Return uvicorn's configuration.

    Args:
        app: the application.
        files: how many files this process may have open.

    """
    # Its warnings are about what strangers send, a line each; `Connection` logs what is worth it.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    most = max(8, min(MOST_CONNECTIONS, int(files * SHARE_OF_FILES)))
    limits: ConnectionLimits[Connection] = ConnectionLimits(
        lambda connection: connection.idle, most, min(MOST_OF_A_PEER, max(4, most // 4))
    )
    lines = LineLimit()

    def connect(**arguments: Any) -> Connection:
        return Connection(limits, lines, **arguments)

    return Config(
        app,
        http=connect,  # type: ignore[arg-type]  # a class is asked for, and called
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Who calls is what the socket says: a header that anybody can write must not pass for loopback.
        proxy_headers=False,
        lifespan="off",
        backlog=BACKLOG,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES + MAX_TARGET,
        timeout_graceful_shutdown=LEAVE_SECONDS,
    )


class Server(UvicornServer):
    """uvicorn's server, which also ends the waits of long requests."""

    def __init__(self, config: Config, leaving: asyncio.Event, stopping: asyncio.Event, drain: Drain) -> None:
        """`leaving` is set when the process is asked to end, `stopping` when no drain keeps it any longer."""
        super().__init__(config)
        self._leaving = leaving
        self._stopping = stopping
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End once every caller that waits for a drain has an answer; a second signal does not wait."""
        awaited = self._drain.awaited
        already_leaving = self._leaving.is_set()
        self._leaving.set()
        if awaited is not None and not already_leaving:
            # Where this is no native sidecar, SIGTERM comes while the engine's preStop hook still waits for the drain.
            awaited.add_done_callback(lambda _: self.handle_exit(sig, frame))
            return
        self._stopping.set()
        super().handle_exit(sig, frame)

    def take_signals(self) -> None:
        """Have SIGTERM end the server in order; uvicorn raises it once more when it has served."""
        signal.signal(signal.SIGTERM, self.handle_exit)


def limit_loop_errors(loop: asyncio.AbstractEventLoop, lines: LineLimit | None = None) -> None:
    """Have a loop that has no files left to accept connections with say so now and then, not a thousand times.

    asyncio itself tries again after a second.
    """
    limit = lines or LineLimit(lines=1, seconds=30.0)

    def handle(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        if (
            not isinstance(error, OSError)
            or error.errno not in NO_RESOURCE
            or "accept" not in context.get("message", "")
        ):
            loop.default_exception_handler(dict(context))
            return
        suppressed = limit.take()
        if suppressed is not None:
            log.error(
                "the sidecar cannot open more files, so it accepts no connections; the engine is not the cause "
                "error=%s suppressed=%d",
                error.strerror,
                suppressed,
            )

    loop.set_exception_handler(handle)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound; `::` is every address of both families, or of IPv4 where there is no other.

    Raises:
        SettingsError: the address or port is taken, or none of this host's.

    """
    try:
        return _bound(host, port)
    except OSError as error:
        if host != "::" or error.errno == errno.EADDRINUSE:
            raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    try:
        return _bound("0.0.0.0", port)  # noqa: S104 - the pod's own address is where kubelet and the operator call
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; without, every answer waits 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening

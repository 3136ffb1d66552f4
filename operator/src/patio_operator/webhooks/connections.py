"""What a caller may hold of the operator's servers: connections in all, and the time of a request's head.

Between asyncio and aiohttp: `server` listens with `Connections`, which hands each connection on to aiohttp. Connections
that say nothing are closed by aiohttp itself after its keepalive_timeout. Places are shared by peer: where there are
too many, the peer with the most loses its oldest one without a request, so that the API server is answered while
strangers hold all that they can. Here nothing is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakSet

from aiohttp import web

HEAD_SECONDS = 10.0
"""In which the head of a request has to be whole, from its first byte."""
MOST_CONNECTIONS = 1024
"""In all. The API server opens one for each review that it waits for."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Connection(asyncio.Protocol):
    """One connection: aiohttp's, and the time that a head has."""

    def __init__(self, handler: web.RequestHandler, connections: Connections) -> None:
        self.handler = handler
        """What aiohttp does with the connection."""
        self.peer = ""
        """The address at the other end."""
        self.answering = False
        """Whether a request is being answered."""
        self.answered = False
        """Whether one was."""
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        connections.expect(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take part; another connection may have to go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if address else ""
        self.handler.connection_made(transport)
        self._connections.enter(self)

    def data_received(self, data: bytes) -> None:
        """Hand on what came; the first byte of a head begins its time."""
        if not self.answering and self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.abort)
        self.handler.data_received(data)

    def eof_received(self) -> None:
        """Hand on that nothing more comes."""
        self.handler.eof_received()

    def pause_writing(self) -> None:
        """Hand on that the caller does not take its answer."""
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        """Hand on that it does again."""
        self.handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nothing behind."""
        self.stop_waiting()
        self._connections.leave(self)
        self.handler.connection_lost(exc)

    def stop_waiting(self) -> None:
        """Stop the time of a head: it is whole."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def abort(self) -> None:
        """Close the connection at once."""
        self._deadline = None
        if self._transport is not None:
            self._transport.abort()


class Connections:
    """The connections to one server, by peer, the oldest first."""

    def __init__(self) -> None:
        self._by_peer: dict[str, dict[Connection, None]] = {}
        self._by_handler: dict[object, Connection] = {}
        self._expected: WeakSet[Connection] = WeakSet()

    @property
    def expecting(self) -> bool:
        """Whether a connection that was accepted has not had its first answer yet; it may be without TLS still."""
        return any(not connection.answered for connection in self._expected)

    def expect(self, connection: Connection) -> None:
        """Take in that a connection was accepted. One that never gets TLS is lost without a word."""
        self._expected.add(connection)

    def watch(self, app: web.Application) -> None:
        """Have an application tell which connections have a request that is being answered."""

        @web.middleware
        async def mark(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = self._by_handler.get(request.protocol)
            if connection is None:
                return await handler(request)
            connection.stop_waiting()
            connection.answering = True
            try:
                return await handler(request)
            finally:
                connection.answering = False
                connection.answered = True

        app.middlewares.append(mark)

    def enter(self, connection: Connection) -> None:
        """Take a connection in, and close the one that has to go for it, which may be itself."""
        self._by_handler[connection.handler] = connection
        self._by_peer.setdefault(connection.peer, {})[connection] = None
        if len(self._by_handler) > MOST_CONNECTIONS:
            leaver = self._leaver(connection)
            self.leave(leaver)
            leaver.abort()

    def leave(self, connection: Connection) -> None:
        """Forget a connection; one that is not known is no fault."""
        self._expected.discard(connection)
        if self._by_handler.pop(connection.handler, None) is not None:
            own = self._by_peer[connection.peer]
            del own[connection]
            if not own:
                del self._by_peer[connection.peer]

    def _leaver(self, newcomer: Connection) -> Connection:
        most = max(map(len, self._by_peer.values()))
        crowding = [own for own in self._by_peer.values() if len(own) == most]
        for own in crowding:
            for connection in own:
                if connection is not newcomer and not connection.answering:
                    return connection
        return newcomer if newcomer in crowding[0] else next(iter(crowding[0]))

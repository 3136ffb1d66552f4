"""Who has to go when there are too many: connections by their peers, and long-polls. Pure; nothing here does I/O.

There is no telling a probe from a stranger before it has spoken, so no place is reserved by name. Instead places are
shared by peer: the peer with the most connections loses one first, and a peer with one connection keeps it as long as
another has two. Asked by `server` for each connection and by the routes for each long-poll.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_C = TypeVar("_C")

MOST_CONNECTIONS = 512
MOST_OF_A_PEER = 64
LONG_POLLS = 256
LONG_POLLS_OF_A_PEER = 32
LONG_POLLS_IN_ANY_CASE = 4
"""Of one peer, also when others hold all the rest: an operator has one or two of each pod."""


class ConnectionLimits(Generic[_C]):
    """The connections that are open, by peer, the oldest first."""

    def __init__(
        self, is_idle: Callable[[_C], bool], most: int = MOST_CONNECTIONS, most_of_a_peer: int = MOST_OF_A_PEER
    ) -> None:
        self._is_idle = is_idle
        self._most = most
        self._most_of_a_peer = most_of_a_peer
        self._by_peer: dict[str, dict[_C, None]] = {}
        self._peers: dict[_C, str] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, connection: _C) -> bool:
        return connection in self._peers

    def enter(self, connection: _C, peer: str) -> _C | None:
        """Take a connection in; return the one that has to go for it, which may be itself. It no longer counts."""
        self._peers[connection] = peer
        connections = self._by_peer.setdefault(peer, {})
        connections[connection] = None
        if len(connections) > self._most_of_a_peer:
            idle = self._oldest_idle(connections, connection)
            leaver = connection if idle is None else idle
        elif len(self._peers) > self._most:
            leaver = self._of_all(connection, len(connections))
        else:
            return None
        self.leave(leaver)
        return leaver

    def leave(self, connection: _C) -> None:
        """Forget a connection; one that is not known is no fault."""
        peer = self._peers.pop(connection, None)
        if peer is None:
            return
        connections = self._by_peer[peer]
        del connections[connection]
        if not connections:
            del self._by_peer[peer]

    def _of_all(self, newcomer: _C, of_its_peer: int) -> _C:
        most = max(map(len, self._by_peer.values()))
        crowding = [connections for connections in self._by_peer.values() if len(connections) == most]
        for connections in crowding:
            idle = self._oldest_idle(connections, newcomer)
            if idle is not None:
                return idle
        return newcomer if of_its_peer == most else next(iter(crowding[0]))

    def _oldest_idle(self, connections: dict[_C, None], newcomer: _C) -> _C | None:
        return next(
            (connection for connection in connections if connection is not newcomer and self._is_idle(connection)), None
        )


class LongPolls:
    """How many wait for news without a proof, by peer."""

    def __init__(
        self,
        most: int = LONG_POLLS,
        most_of_a_peer: int = LONG_POLLS_OF_A_PEER,
        in_any_case: int = LONG_POLLS_IN_ANY_CASE,
    ) -> None:
        self._most = most
        self._most_of_a_peer = most_of_a_peer
        self._in_any_case = in_any_case
        self._waiting: dict[str, int] = {}
        self._total = 0
        self.last_from_outside = 0.0
        """Unix seconds of the last one that another pod made; 0: none since the start."""

    def __len__(self) -> int:
        return self._total

    def enter(self, peer: str) -> bool:
        """Whether one more may wait; if so it counts until it leaves."""
        waiting = self._waiting.get(peer, 0)
        if waiting >= self._most_of_a_peer or (self._total >= self._most and waiting >= self._in_any_case):
            return False
        self._waiting[peer] = waiting + 1
        self._total += 1
        return True

    def leave(self, peer: str) -> None:
        """One that entered waits no longer."""
        self._total -= 1
        self._waiting[peer] -= 1
        if not self._waiting[peer]:
            del self._waiting[peer]

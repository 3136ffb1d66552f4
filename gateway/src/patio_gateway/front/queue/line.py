"""The order in which requests that wait for one model or adapter go on. Pure.

The greater priority goes first. Within a priority the clients take turns, so that a client with a thousand requests
delays the first one of another client by one turn. Requests of one client keep their order. A request that was let go
and came back, since its worker was not reachable, goes before all others.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Ticket:
    """A request that waits. Times are in seconds of one clock."""

    number: int
    """Unique among those that wait."""
    since: float
    """When the request came for the first time."""
    deadline: float
    """When it has waited long enough."""
    client: str = ""
    priority: int = 0
    size: int = 0
    """Bytes of its body, which Envoy holds meanwhile."""
    not_before: float | None = None
    """When a request that came back may go on again; None for a request that has not been let go yet."""


class Line:
    """The tickets for one model or adapter."""

    def __init__(self) -> None:
        self._tickets: dict[int, Ticket] = {}
        self._returned: dict[int, Ticket] = {}
        self._priorities: dict[int, OrderedDict[str, deque[int]]] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
        self._tickets[ticket.number] = ticket
        if ticket.not_before is not None:
            self._returned[ticket.number] = ticket
            return
        clients = self._priorities.setdefault(ticket.priority, OrderedDict())
        clients.setdefault(ticket.client, deque()).append(ticket.number)

    def remove(self, number: int) -> Ticket | None:
        """Take a ticket out, wherever it is; None if it does not wait here."""
        ticket = self._tickets.pop(number, None)
        if ticket is None or self._returned.pop(number, None) is not None:
            return ticket
        self._priorities[ticket.priority][ticket.client].remove(number)
        self._forget_empty(ticket)
        return ticket

    def take(self, now: float) -> Ticket | None:
        """Take out the ticket whose turn it is; None if none may go on now."""
        for number, ticket in self._returned.items():
            if ticket.not_before is None or ticket.not_before <= now:
                return self.remove(number)
        if not self._priorities:
            return None
        clients = self._priorities[max(self._priorities)]
        client, numbers = next(iter(clients.items()))
        # The client is now the last to get a turn.
        clients.move_to_end(client)
        return self.remove(numbers[0])

    def next_time(self) -> float | None:
        """Return when the next ticket may go on as far as this line knows; None for an empty line."""
        if self._priorities:
            return float("-inf")
        return min((ticket.not_before or float("-inf") for ticket in self._returned.values()), default=None)

    def tickets(self) -> tuple[Ticket, ...]:
        """Return all tickets, in the order in which they came."""
        return tuple(self._tickets.values())

    def _forget_empty(self, ticket: Ticket) -> None:
        clients = self._priorities[ticket.priority]
        if not clients[ticket.client]:
            del clients[ticket.client]
        if not clients:
            del self._priorities[ticket.priority]

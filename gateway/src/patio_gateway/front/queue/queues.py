"""All requests that wait, with their bounds: enters, leaves, expires and releases tickets. Pure.

The caller gives the time and, for each place, what its workers take at a time (`ready`). A method returns the tickets
that it took out; each ticket leaves exactly once, by one of `leave`, `expire`, `drop`, `clear` and `release`.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from patio_gateway.front.queue.line import Line, Ticket
from patio_gateway.front.queue.pace import Pace, moved, next_token, spent, started

Place = tuple[str, str | None]
"""A ModelEndpoint, and an adapter of it; None for its model."""


class FullQueue(Enum):
    """Why a request may not wait."""

    MODEL_FULL = "as many requests as the model's queue.max wait already"
    GATEWAY_FULL = "as many requests or bytes as the gateway holds wait already"


@dataclass(frozen=True)
class Bounds:
    """Of all requests that wait at a time."""

    requests: int = 10_000
    size: int = 256 * 1024 * 1024
    """Bytes of their bodies, which are in Envoy's memory."""


@dataclass(frozen=True)
class Held:
    """What waits for a ModelEndpoint."""

    count: int
    oldest: float
    """When the oldest of them came."""


class Queues:
    """The lines of all models and adapters."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._places: dict[int, Place] = {}
        self._lines: dict[str, dict[str | None, Line]] = {}
        self._paces: dict[str, Pace] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size(self) -> int:
        """Bytes of all bodies."""
        return self._size

    def enter(self, place: Place, ticket: Ticket, most: int) -> FullQueue | None:
        """Let a request wait, where at most `most` may wait for its ModelEndpoint; or return why it may not.

        A request that came back has its place: only the bounds of the gateway hold for it.
        """
        endpoint, adapter = place
        lines = self._lines.get(endpoint, {})
        if ticket.not_before is None and sum(map(len, lines.values())) >= most:
            return FullQueue.MODEL_FULL
        if len(self._places) >= self._bounds.requests or self._size + ticket.size > self._bounds.size:
            return FullQueue.GATEWAY_FULL
        self._lines.setdefault(endpoint, lines).setdefault(adapter, Line()).add(ticket)
        self._places[ticket.number] = place
        self._size += ticket.size
        if len(self._deadlines) > 2 * len(self._places) + 64:
            self._deadlines = [each for each in self._deadlines if each[1] in self._places]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (ticket.deadline, ticket.number))
        return None

    def leave(self, number: int) -> Ticket | None:
        """Take out a request whose client hung up; None if it does not wait."""
        place = self._places.get(number)
        if place is None:
            return None
        ticket = self._lines[place[0]][place[1]].remove(number)
        assert ticket is not None, number
        self._forget(place, ticket)
        return ticket

    def expire(self, now: float) -> tuple[Ticket, ...]:
        """Take out the requests that have waited long enough."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            ticket = self.leave(heapq.heappop(self._deadlines)[1])
            if ticket is not None:
                expired.append(ticket)
        return tuple(expired)

    def drop(self, places: Collection[Place]) -> tuple[Ticket, ...]:
        """Take out the requests for places that are not known any more: their model or adapter was deleted."""
        lost = [ticket for place in self._all_places() if place not in places for ticket in self._line(place).tickets()]
        for ticket in lost:
            self.leave(ticket.number)
        return tuple(lost)

    def clear(self) -> tuple[Ticket, ...]:
        """Take out all requests: the gateway ends."""
        waiting = [ticket for place in self._all_places() for ticket in self._line(place).tickets()]
        for ticket in waiting:
            self.leave(ticket.number)
        return tuple(waiting)

    def release(self, now: float, ready: Mapping[Place, int]) -> tuple[Ticket, ...]:
        """Take out the requests that may go on now. The places of a ModelEndpoint take turns."""
        released: list[Ticket] = []
        for endpoint in list(self._lines):
            capacity = self._capacity(endpoint, ready)
            if not capacity:
                self._paces.pop(endpoint, None)
                continue
            pace = self._paces.get(endpoint)
            pace = started(capacity, now) if pace is None else moved(pace, capacity, now)
            waiting = [place for place in self._places_of(endpoint) if ready.get(place)]
            while waiting and pace.tokens >= 1.0:
                place = waiting.pop(0)
                line = self._line(place)
                ticket = line.take(now)
                if ticket is None:
                    continue
                pace = spent(pace)
                released.append(ticket)
                if len(line):
                    waiting.append(place)
                    # The last to get the next turn, also when that comes much later.
                    self._lines[endpoint][place[1]] = self._lines[endpoint].pop(place[1])
                self._forget(place, ticket)
            self._paces[endpoint] = pace
        self._paces = {endpoint: pace for endpoint, pace in self._paces.items() if pace.at > now - 60.0}
        return tuple(released)

    def next_time(self, ready: Mapping[Place, int]) -> float | None:
        """Return when `expire` or `release` has something to do if nothing else happens; None: never."""
        while self._deadlines and self._deadlines[0][1] not in self._places:
            heapq.heappop(self._deadlines)
        moments = [self._deadlines[0][0]] if self._deadlines else []
        for place in self._all_places():
            line_time = self._line(place).next_time() if ready.get(place) else None
            if line_time is not None:
                pace = self._paces.get(place[0])
                moments.append(max(line_time, next_token(pace) if pace is not None else line_time))
        return min(moments, default=None)

    def held(self) -> Mapping[str, Held]:
        """Return what waits, by ModelEndpoint."""
        found = {}
        for endpoint, lines in self._lines.items():
            since = [ticket.since for line in lines.values() for ticket in line.tickets()]
            found[endpoint] = Held(len(since), min(since))
        return found

    def endpoints(self) -> frozenset[str]:
        """Return the ModelEndpoints for which something waits."""
        return frozenset(self._lines)

    def _capacity(self, endpoint: str, ready: Mapping[Place, int]) -> int:
        return max((ready.get(place, 0) for place in self._places_of(endpoint)), default=0)

    def _places_of(self, endpoint: str) -> list[Place]:
        return [(endpoint, adapter) for adapter in self._lines[endpoint]]

    def _all_places(self) -> list[Place]:
        return [place for endpoint in self._lines for place in self._places_of(endpoint)]

    def _line(self, place: Place) -> Line:
        return self._lines[place[0]][place[1]]

    def _forget(self, place: Place, ticket: Ticket) -> None:
        endpoint, adapter = place
        del self._places[ticket.number]
        self._size -= ticket.size
        if not len(self._lines[endpoint][adapter]):
            del self._lines[endpoint][adapter]
        if not self._lines[endpoint]:
            del self._lines[endpoint]

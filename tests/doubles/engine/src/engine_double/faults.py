"""Faults that a test orders, and the log of what was asked: what a real engine does not have.

A fault stands in front of the engine's own answer, for one path, for a number of times. Pure state; `server` consults
it on every request and `control` fills it over HTTP.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Fault:
    """An answer to give instead of the engine's, a delay before it, or both."""

    path: str
    method: str | None = None
    """Only this method; None is any."""
    status: int | None = None
    """None leaves the answer to the engine: only the delay happens."""
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"
    times: int | None = None
    """For so many requests; None is until cleared."""
    delay: float = 0.0
    """Seconds before the answer."""
    after: bool = False
    """Let the engine do its work first and lose its answer: the request took effect, the caller sees the fault."""


@dataclass(frozen=True)
class Request:
    """One request that came in."""

    method: str
    path: str
    body: Any
    """Parsed where it is JSON, else text."""
    at: float
    status: int


@dataclass
class Faults:
    """The faults in force and the requests so far."""

    ordered: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def order(self, fault: Fault) -> None:
        """From now on."""
        self.ordered.append(fault)

    def clear(self) -> None:
        """No faults any more."""
        self.ordered.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, used up by one; the oldest order first."""
        for index, fault in enumerate(self.ordered):
            if fault.path != path or fault.method not in (None, method):
                continue
            if fault.times is not None:
                if fault.times <= 1:
                    del self.ordered[index]
                else:
                    self.ordered[index] = replace(fault, times=fault.times - 1)
            return fault
        return None

    def note(self, method: str, path: str, body: Any, status: int) -> None:
        """Log one request."""
        self.requests.append(Request(method, path, body, time.time(), status))

    def calls(self, path: str, method: str | None = None) -> list[Request]:
        """The requests to one path, oldest first."""
        return [request for request in self.requests if request.path == path and method in (None, request.method)]

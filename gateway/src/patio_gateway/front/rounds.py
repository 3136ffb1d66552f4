"""How often the front has sent a request back to Envoy, and since when it waits: by client and id of the request. Pure.

Envoy keeps the id when it sends a request again, and passes the eleventh 307 to the client (decision 0041). So the
front's last word has to come before. A client may choose the id: two of its requests with one id share their rounds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MOST_ROUNDS = 8
MOST_REQUESTS = 20_000
"""Requests that are remembered; the oldest is forgotten first, and then counts as new."""

FIRST_DELAY = 0.05
"""Seconds until a request that came back goes on again; twice as long with each further round."""

Key = tuple[str, str]


@dataclass(frozen=True)
class Round:
    """A visit of a request to the front."""

    number: int
    """0 for the first one."""
    since: float
    """When the first one began."""


class Rounds:
    """The visits of the requests that may come back."""

    def __init__(self, most: int = MOST_REQUESTS) -> None:
        self._most = most
        self._seen: OrderedDict[Key, Round] = OrderedDict()

    def begin(self, key: Key, now: float, longest: float) -> Round:
        """Note a visit, and return it. What began more than `longest` seconds ago is another request with that id."""
        last = self._seen.pop(key, None)
        current = Round(0, now)
        if last is not None and now - last.since <= longest:
            current = Round(last.number + 1, last.since)
        self._seen[key] = current
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return current

    def end(self, key: Key) -> None:
        """Forget a request that has had its answer."""
        self._seen.pop(key, None)


def delay(number: int) -> float:
    """Return for how many seconds a request waits at least in a later round."""
    return float(FIRST_DELAY * 2 ** (number - 1))

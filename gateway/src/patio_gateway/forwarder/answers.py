"""What the forwarder itself answers, in the shape of Model Engine's: `{"detail": ...}`. Pure.

Statuses are those that Model Engine's callers know: 429 at the limit and 503 without an engine are sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LATER = {"retry-after": "1"}
MOST_REASON = 256
"""Characters of a reason that are repeated."""


@dataclass(frozen=True)
class Answer:
    """An error."""

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


TOO_MANY = Answer(429, "Too many requests", LATER)
"""In upstream's words, which clients compare."""

BAD_HEADER = Answer(400, "A header of the request cannot be sent on.")
LONG_PATH = Answer(414, "The path and query of the request are too long.")
STOPPING = Answer(503, "The forwarder ends. Send the request again.", LATER)
NO_ROOM = Answer(429, "The forwarder reads as many bodies of requests as it may. Send the request again later.", LATER)
BAD_PATH = Answer(404, "Not Found")


def too_large(most: int) -> Answer:
    """Return the answer to a body of more than `most` bytes."""
    return Answer(413, f"The body of the request is larger than {most} bytes.")


def too_slow(seconds: float) -> Answer:
    """Return the answer to a body that was not complete in time."""
    return Answer(408, f"The body of the request was not complete within {seconds:g} s.")


def unreadable(reason: str) -> Answer:
    """Return the answer to a body that cannot be unwrapped."""
    return Answer(422, reason)


def no_stream(path: str) -> Answer:
    """Return the answer to a call for a stream where the config has none."""
    return Answer(422, f"{path} does not stream: `stream` has no such route in the forwarder's config.")


def stream_alone(path: str) -> Answer:
    """Return the answer to a call with `stream: false` where the config has streams alone."""
    return Answer(422, f"{path} only streams: `sync` has no such route in the forwarder's config.")


def unreachable(engine: str) -> Answer:
    """Return the answer when the engine takes no connection."""
    return Answer(503, f"The engine at {engine} takes no connection: it is starting, or has ended.", LATER)


def broken_off(engine: str) -> Answer:
    """Return the answer when the engine took a request and closed the connection."""
    return Answer(502, f"The engine at {engine} closed the connection before its answer was complete.")


def silent(engine: str, seconds: float) -> Answer:
    """Return the answer when the engine sent nothing for some time."""
    return Answer(504, f"The engine at {engine} sent nothing for {seconds:g} s.")


def too_long(engine: str, reason: str) -> Answer:
    """Return the answer when the engine's is longer than what is read."""
    return Answer(502, f"The answer of the engine at {engine} is too long: {reason[:MOST_REASON]}.")


def not_ready(reason: str) -> Answer:
    """Return the answer of the readiness probe while the engine is not ready."""
    return Answer(503, reason[:MOST_REASON], LATER)

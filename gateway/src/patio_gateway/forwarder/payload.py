"""What is in the bodies of requests and answers: `{"args": ...}` unwrapped, `{"result": ...}` around answers. Pure.

Model Engine wraps each call. A body without `args` is a plain request of another client: nothing of it is read. An
answer that is valid JSON is put into the wrapping as it came, so numbers keep their digits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

AS_STRING = "serialize_results_as_string"
"""A field of `args` that decides it for one call."""

WITHOUT_BODY = frozenset({204, 205, 304})
"""Statuses of answers that cannot have a body, and so no result."""


class PayloadError(ValueError):
    """A body cannot be unwrapped. The text is for the client."""


@dataclass(frozen=True)
class Call:
    """A call that Model Engine wrapped."""

    args: bytes
    """The JSON of `args`."""
    stream: bool | None = None
    """Whether the call asks for a stream; None: it does not say."""
    as_string: bool | None = None
    """Whether the call wants its result as a string; None: the config decides."""


def is_json(content_type: str) -> bool:
    """Whether a body of this type is read as JSON: also one without a type, as FastAPI does."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in {"", "application/json"} or (kind.startswith("application/") and kind.endswith("+json"))


def read_call(body: bytes) -> Call | None:
    """Return the call in the JSON that a client sent; None if it is a plain request.

    Raises:
        PayloadError: it is not JSON, or its `args` are null.

    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise PayloadError("The body is not JSON, or too deep.") from None
    if not isinstance(content, dict) or "args" not in content:
        return None
    args = content["args"]
    if args is None:
        raise PayloadError("The request has no args: `args` is null.")
    fields = args if isinstance(args, dict) else {}
    as_string = fields.get(AS_STRING)
    return Call(
        args=json.dumps(args, separators=(",", ":")).encode(),
        stream=bool(fields["stream"]) if fields.get("stream") is not None else None,
        as_string=as_string if isinstance(as_string, bool) else None,
    )


def wrapped(answer: bytes, as_string: bool, status: int | None) -> bytes:
    """Return `{"result": ...}` of an engine's answer.

    Args:
        answer: the body; text that is not JSON becomes a string.
        as_string: whether the result is the JSON as a string, as Model Engine has it for calls with one answer.
        status: the engine's, if it is to be in the body.

    """
    after = b"" if status is None else b',"status_code":%d' % status
    return b'{"result":' + (_string(answer) if as_string else _json(answer)) + after + b"}"


def error_detail(answer: bytes) -> bytes:
    """Return `{"detail": ...}` of an engine's error: its JSON, or its text."""
    return b'{"detail":' + _json(answer) + b"}"


def event_of(data: str, as_string: bool) -> bytes:
    """Return the event that a client gets for the data of one event of the engine."""
    result = json.dumps(data).encode() if as_string else _json(data.encode("utf-8", "replace"))
    # A line end within JSON is white space, but would end the line of the event.
    return b'data: {"result":' + result.replace(b"\r", b" ").replace(b"\n", b" ") + b"}\r\n\r\n"


def _parsed(answer: bytes) -> object:
    text = answer.decode("utf-8", "replace")
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        return text


def _string(answer: bytes) -> bytes:
    return json.dumps(json.dumps(_parsed(answer))).encode()


def _json(answer: bytes) -> bytes:
    try:
        text = answer.decode()
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(_parsed(answer)).encode()
    return answer.strip(b" \t\r\n")

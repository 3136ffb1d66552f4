"""How large a request may be, and what it must not contain, from any caller. Pure.

Asked by the guard before anything else reads the request. Names in paths and bodies are decoded by others later; what
no client of the API ever sends ends here, in one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from patio.access.proof import RequestRejection

MAX_TARGET = 8192
"""Bytes of path and query."""
MAX_HEADERS = 100
MAX_HEADER_BYTES = 48 * 1024
"""Of all headers together: the longest proof and 32 endorsements have 27 KiB."""
MAX_DEPTH = 32
"""Objects and lists in each other. The API's own have four; a router's extra fields may have more."""

TARGET_TOO_LONG = RequestRejection(
    "InvalidRequest", f"Path and query exceed the limit of {MAX_TARGET} bytes.", status=414
)
HEADERS_TOO_LARGE = RequestRejection(
    "InvalidRequest",
    f"The headers exceed the limit of {MAX_HEADERS} headers or of {MAX_HEADER_BYTES} bytes.",
    status=431,
)
CONTROL_CHARACTER = RequestRejection("InvalidRequest", "The path has a control character.", status=400)
NOT_UTF8 = RequestRejection("InvalidRequest", "The body is not UTF-8.", status=400)
TOO_DEEP = RequestRejection(
    "InvalidRequest", f"The body nests lists and objects deeper than {MAX_DEPTH} levels.", status=400
)
BODY_TOO_SLOW = RequestRejection("BodyTooSlow", "The body did not arrive in time.", True, 408)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Strings first, so that the brackets in them do not count. One that does not end is no JSON, and swallows the rest.
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)


def judge_head(path: str, raw_target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> RequestRejection | None:
    """Say what is wrong with the head of a request, if something is.

    Args:
        path: the path, decoded once as the router will see it.
        raw_target: path and query as they were sent.
        headers: names and values.

    """
    if len(raw_target) > MAX_TARGET:
        return TARGET_TOO_LONG
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        return HEADERS_TOO_LARGE
    if _CONTROL.search(path) or _CONTROL.search(raw_target.decode("latin-1")):
        return CONTROL_CHARACTER
    return None


def judge_json(body: bytes) -> RequestRejection | None:
    """Say what is wrong with a body before it is decoded, if something is; whether it is JSON is seen then."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    if b"\0" in body:
        return NOT_UTF8  # UTF-16 and UTF-32, which decoders of JSON take as well
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return None
    depth = 0
    for match in _BRACKETS.finditer(body):
        first = match[0][:1]
        if first in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                return TOO_DEEP
        elif first != b'"':
            depth -= 1
    return None

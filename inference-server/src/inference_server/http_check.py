"""Asks a server over HTTP: one request with a limit on time and size, without a proxy.

A server that does not answer is an answer too (None), and no exception. `server` calls this, and what carries out its
calls.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - for the name of a host; an import during a start could lose a Ctrl-C
import http.client
import json
from dataclasses import dataclass
from typing import Any, Mapping
from urllib.parse import urlsplit

MAX_BODY = 16 * 1024 * 1024
"""Bytes of an answer that are read."""


@dataclass(frozen=True)
class Answer:
    """An answer to a request."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the body as JSON, or None if it is none."""
        try:
            return json.loads(self.body.decode("utf-8"))
        except ValueError:
            return None


def get(url: str, timeout: float, headers: Mapping[str, str] | None = None) -> Answer | None:
    """Return a server's answer, or None if there was none in `timeout` seconds (for each read)."""
    return _ask("GET", url, timeout, headers, None)


def post(url: str, content: Any, timeout: float, headers: Mapping[str, str] | None = None) -> Answer | None:
    """Send JSON; return a server's answer, or None if there was none in `timeout` seconds (for each read)."""
    body = json.dumps(content).encode("utf-8")
    return _ask("POST", url, timeout, dict(headers or {}, **{"Content-Type": "application/json"}), body)


def _ask(method: str, url: str, timeout: float, headers: Mapping[str, str] | None, body: bytes | None) -> Answer | None:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "localhost", parts.port, timeout=timeout)
    try:
        connection.request(
            method, (parts.path or "/") + ("?" + parts.query if parts.query else ""), body, dict(headers or {})
        )
        response = connection.getresponse()
        return Answer(response.status, response.read(MAX_BODY))
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def model_ids(answer: Answer | None) -> frozenset[str] | None:
    """Return the ids in an answer of /v1/models, or None if it is no such list."""
    content = answer.json() if answer is not None and answer.status == 200 else None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list):
        return None
    return frozenset(each["id"] for each in data if isinstance(each, dict) and isinstance(each.get("id"), str))

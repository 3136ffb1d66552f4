"""One request and its answer, within a total deadline and a size: how the sidecar asks its engine anything.

Above httpx, below `patio.engine` and `patio.drain`. A deadline of httpx counts from one read to the next, so that an
answer that drips has none; here it is one for connecting, sending and reading together. Redirects are not followed, and
what is compressed is not unpacked. It raises `ExchangeError` alone, and must never let a key or a library's error out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from patio.network import Cause, call_message, cause_of

CONNECT_SECONDS = 2.0
_HEADERS = {"accept-encoding": "identity"}


class ExchangeError(Exception):
    """There was no answer within the deadline; the message is a sentence."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer."""

    status: int
    content: bytes
    whole: bool = True
    """False: it has more bytes than were asked for, or is compressed, and `content` is only its beginning."""

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The content as text; what is no UTF-8 is replaced."""
        return self.content.decode("utf-8", "replace")


def is_plain(headers: httpx.Headers) -> bool:
    """Whether what was answered is as it is: httpx would unpack anything else, however much comes out."""
    return headers.get("content-encoding", "").strip().lower() in ("", "identity")


async def exchange(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    where: str,
    path: str,
    seconds: float,
    largest: int,
    headers: Mapping[str, str],
    body: Mapping[str, object] | None = None,
    query: Mapping[str, str] | None = None,
    slots: asyncio.Semaphore | None = None,
) -> Answer:
    """Ask, and return the answer, of which at most `largest` bytes are read.

    Args:
        where: who is asked, for messages: `the engine at http://localhost:8000`.
        path: what is asked for, for messages.
        seconds: the deadline of all of it.
        slots: what limits the calls in progress at once; waiting for it counts.

    Raises:
        ExchangeError: there is no answer.

    """
    timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
    try:
        async with (
            asyncio.timeout(seconds),
            slots or contextlib.nullcontext(),
            http.stream(
                method,
                url,
                headers={**_HEADERS, **headers},
                json=body,
                params=query,
                timeout=timeout,
                follow_redirects=False,
            ) as response,
        ):
            content = bytearray()
            # Of an answer that is not compressed, httpx changes no byte.
            plain = is_plain(response.headers)
            if plain:
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > largest:
                        break
            return Answer(response.status_code, bytes(content[:largest]), plain and len(content) <= largest)
    # An engine that answers with a TLS alert has ssl.SSLError escape httpx, and names that are no names UnicodeError.
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise ExchangeError(cause_of(error), call_message(where, path, error)) from error

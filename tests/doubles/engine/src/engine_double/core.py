"""What both doubled engines stand on: settings, scheduler, numbers, faults and the state of the process.

`vllm.Vllm` and `sglang.Sglang` are built around one `Core` and speak the `Engine` protocol to `server`, which knows
nothing of either. State lives here and in them; nothing is global, so that many doubles run in one process.
"""

from __future__ import annotations

import json
import time
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine_double.batch import Batch
from engine_double.faults import Faults
from engine_double.settings import Settings
from engine_double.stats import Stats


class Core:
    """One doubled engine process, from its start to its end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stats = Stats()
        self.faults = Faults()
        self.batch = Batch(settings, self.stats)
        self.started_at = time.time()
        self.shutting_down = False

    @property
    def age(self) -> float:
        """Seconds since the port opened."""
        return time.time() - self.started_at


class Engine(Protocol):
    """What `server` needs of a doubled engine."""

    core: Core

    def routes(self) -> list[Route]:
        """Everything it serves."""

    def is_authorised(self, path: str, authorization: str | None) -> bool:
        """Whether a request with this header may pass."""

    def adapters(self) -> dict[str, str]:
        """The loaded ones, name -> path."""

    def forget(self) -> None:
        """Lose every adapter loaded at run time, as a restart does."""

    async def drain(self) -> None:
        """React to SIGTERM; when this returns, the port closes."""


class CompactJSON(Response):
    """JSON without spaces and with plain Unicode, as both engines print it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the content."""
        return compact(content).encode()


def compact(content: Any) -> str:
    """JSON text without spaces."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def bearer(token: str | None, authorization: str | None) -> bool:
    """Whether the `Authorization` header carries the token; where there is none to carry, everybody may pass."""
    if token is None:
        return True
    scheme, _, shown_token = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and shown_token == token


async def read_body(request: Request) -> tuple[bytes, str]:
    """The raw body and its media type, without parameters."""
    return await request.body(), request.headers.get("content-type", "").partition(";")[0].strip()

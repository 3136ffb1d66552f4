"""Whether the engine is ready: its own health route is called when the forwarder's readiness is.

Model Engine's forwarder answers OK for ever, so a pod with a dead engine keeps its requests. Here each answer is a look
at the engine, at most `FRESH_SECONDS` old, with connections that no request shares.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import httpx

from patio_gateway.forwarder import answers
from patio_gateway.forwarder.routes import Engine

TIMEOUT_SECONDS = 5.0
"""SGLang's /health generates a token, which takes a second or more under load."""

FRESH_SECONDS = 0.5
"""Probes within this time share one look."""


def readiness_client() -> httpx.AsyncClient:
    """Return a client for looks at engines, each on a new connection; the caller closes it."""
    return httpx.AsyncClient(
        timeout=2 * TIMEOUT_SECONDS, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False
    )


class Readiness:
    """Calls the health routes of the engines."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        health: Sequence[tuple[Engine, str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`health` has each engine with the path of its health route."""
        self._client = client
        self._health = tuple(dict.fromkeys(health))
        self._clock = clock
        self._lock = asyncio.Lock()
        self._reason: str | None = None
        self._at: float | None = None

    async def reason_against(self) -> str | None:
        """Return why the engine is not ready, as a sentence; None: it is."""
        async with self._lock:
            if self._at is None or self._clock() - self._at >= FRESH_SECONDS:
                reasons = await asyncio.gather(*(self._look(engine, path) for engine, path in self._health))
                self._reason = next((reason for reason in reasons if reason is not None), None)
                self._at = self._clock()
            return self._reason

    async def _look(self, engine: Engine, path: str) -> str | None:
        url = httpx.URL(scheme="http", host=engine.host, port=engine.port, path=path)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._client.stream("GET", url) as answer:
                status = answer.status_code
        except TimeoutError:
            return f"The engine at {engine.address} did not answer {path} within {TIMEOUT_SECONDS:g} s."
        except httpx.ConnectError:
            return answers.unreachable(engine.address).detail
        except httpx.HTTPError as error:
            return f"The engine at {engine.address} did not answer {path}: {error or type(error).__name__}."
        return None if status == 200 else f"The engine at {engine.address} answered {path} with {status}."

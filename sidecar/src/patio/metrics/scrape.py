"""Answers a scrape: fetches the engine's text, has it rewritten, puts the sidecar's own metrics behind it.

However many scrape at once, the engine is asked once. An engine that is down, slow, or answers with something else
costs a scrape nothing but `patio:engine_up 0`: it never fails, since the sidecar's own metrics are what tells.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from patio.metrics.own import OwnMetrics
from patio.metrics.rewrite import Rules, rewrite

log = logging.getLogger(__name__)

DEADLINE = 5.0
"""Seconds for the engine to answer: half of Prometheus' usual limit, so that no scrape of ours fails for it."""

_METRICS = re.compile(rb"\s*(?:\Z|#|[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[^\n]*\})?[ \t]+\S)")
_TYPES = ("text/plain", "application/openmetrics-text")


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    message: str


class Scraper:
    """The `/metrics` of one engine."""

    def __init__(
        self, url: str | None, http: httpx.AsyncClient, rules: Rules, own: OwnMetrics, ready: Callable[[], bool]
    ) -> None:
        """`url` None: the engine is not to be scraped, and `ready` says whether it is up."""
        self._url = url
        self._http = http
        self._rules = rules
        self._own = own
        self._ready = ready
        self._running: asyncio.Task[bytes] | None = None
        self._complained: str | None = None
        self._clashes: tuple[str, ...] = ()

    async def text(self) -> bytes:
        """Return the text to serve."""
        if self._running is None:
            self._running = asyncio.create_task(self._scrape(), name="scrape")
            self._running.add_done_callback(self._done)
        # Whoever joins may leave without taking the others' answer along.
        return await asyncio.shield(self._running)

    async def close(self) -> None:
        """Drop a scrape that is under way."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def _done(self, task: asyncio.Task[bytes]) -> None:
        self._running = None

    async def _scrape(self) -> bytes:
        if self._url is None:
            self._own.engine_up.set(1 if self._ready() else 0)
            return self._own.text()
        started = time.perf_counter()
        fetched = await self._fetch(self._url)
        if isinstance(fetched, _Failure):
            self._own.engine_up.set(0)
            self._own.scrape_errors.labels(fetched.reason).inc()
            self._own.scrape_duration.set(time.perf_counter() - started)
            if self._complained != fetched.reason:
                log.warning("engine not scraped reason=%s message=%s", fetched.reason, fetched.message)
            self._complained = fetched.reason
            return self._own.text()
        if self._complained is not None:
            log.info("engine scraped again after=%s", self._complained)
        self._complained = None
        self._own.engine_up.set(1)
        self._own.scrape_duration.set(time.perf_counter() - started)
        rewritten = rewrite(fetched, self._rules, self._own.text())
        if rewritten.clashes != self._clashes:
            self._clashes = rewritten.clashes
            log.warning("engine has metrics of our names, its own are kept names=%s", ",".join(rewritten.clashes))
        return rewritten.text

    async def _fetch(self, url: str) -> bytes | _Failure:
        try:
            async with asyncio.timeout(DEADLINE):
                # Over loopback, compressing costs the engine more than the bytes do.
                headers = {"accept": "text/plain; version=0.0.4", "accept-encoding": "identity"}
                response = await self._http.get(url, headers=headers, timeout=DEADLINE)
        except (TimeoutError, httpx.TimeoutException):
            return _Failure("timeout", f"no answer within {DEADLINE:g} s")
        except httpx.ConnectError as error:
            return _Failure("connection", str(error))
        except httpx.HTTPError as error:
            return _Failure("broken", str(error) or type(error).__name__)
        if response.status_code != 200:
            return _Failure("status", f"the engine answered {response.status_code}")
        if not response.headers.get("content-type", "text/plain").startswith(_TYPES):
            return _Failure("garbage", f"content type {response.headers['content-type']!r}")
        if not _METRICS.match(response.content):
            return _Failure("garbage", "the answer is not in the Prometheus text format")
        return response.content

"""Answers a scrape: fetches the engine's text, has it rewritten, puts the sidecar's own metrics behind it.

However many scrape at once, the engine is asked once. An engine that is down, slow, or answers with something else
costs a scrape nothing but `patio:engine_up 0`: it never fails, since the sidecar's own metrics say why. Each
scrape is answered before its caller stops waiting.

A text of more than one piece is rewritten on a thread of its own, piece by piece; the event loop only waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import httpx

from patio.engine.base import EngineView
from patio.metrics.derived import Sample, quoted
from patio.metrics.pages import Page
from patio.metrics.rewrite import PIECE, Format, Rules, compile_rules, rewrite
from patio.metrics.self_metrics import SelfMetrics
from patio_protocol.engines import EngineKind
from patio_protocol.error_text import error_message

log = logging.getLogger(__name__)

DEADLINE = 5.0
"""Seconds for the engine to answer where the scraper does not say how long it waits: half of Prometheus' default."""
LONGEST = 60.0
LEAST = 0.8
"""A scraper that names less time waits as long: anyone can send the header, and a poll needs time to mean anything."""
PART = 0.8
"""How much of the time that the scraper gives the engine may use."""
LARGEST = 16 * 2**20
"""Bytes that an engine's metrics may have: a hundred times what any has, and no danger to the pod's memory."""
LARGE_PAGES = 2
"""Pages of more than one piece that may be sent to slow readers at a time before no other one is made."""
QUIET = 60.0
"""Seconds before a failure that comes and goes is said once more."""

_METRICS = re.compile(rb"\s*(?:\Z|#|[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[^\n]*\})?[ \t]+\S)")
# Over loopback, compressing costs the engine more than the bytes do.
_HEADERS = {"accept": "text/plain; version=0.0.4", "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What the engine said, in pieces that end where a line does."""

    pieces: tuple[bytes, ...]
    form: Format


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    message: str


@dataclass(slots=True)
class _Scrape:
    """One fetch in progress, and how many wait for it."""

    task: asyncio.Task[Page]
    waiting: int = 0


def allowed(header: str | None) -> float:
    """Return the seconds that the engine has, from the header with which Prometheus says how long it waits."""
    try:
        seconds = float(header or "")
    except ValueError:
        return DEADLINE
    return min(max(seconds * PART, LEAST), LONGEST) if seconds > 0 else DEADLINE


class Scraper:
    """The `/metrics` of one engine."""

    def __init__(
        self,
        url: str | None,
        http: httpx.AsyncClient,
        engine: EngineKind,
        prefixes: Iterable[str],
        self_metrics: SelfMetrics,
        view: Callable[[], EngineView],
    ) -> None:
        """`url` None: the engine is not to be scraped. `view` is the engine's answer to the last poll."""
        self._url = url
        self._http = http
        self._self_metrics = self_metrics
        self._view = view
        self._scraping: _Scrape | None = None
        self._last_failure: str | None = None
        self._warned: dict[str, float] = {}
        """When each reason was last logged."""
        self._conflicts: tuple[str, ...] = ()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._large: weakref.WeakSet[Page] = weakref.WeakSet()
        vocabularies = tuple(prefixes)

        @cache
        def rules(form: Format) -> Rules:
            return compile_rules(engine, vocabularies, form)

        self._rules = rules
        rules(Format.TEXT)

    async def page(self, seconds: float | None = None) -> Page:
        """Return what to serve within so many seconds (`DEADLINE`), with or without the engine's part."""
        if self._url is None:
            self._self_metrics.engine_up.set(1 if self._view().ready else 0)
            return Page((self._self_metrics.text(),))
        if self._scraping is None or self._scraping.task.done():
            self._scraping = _Scrape(asyncio.create_task(self._scrape(self._url), name="scrape"))
        joined = self._scraping
        joined.waiting += 1
        limit = DEADLINE if seconds is None else seconds
        try:
            # A caller that joins may leave without cancelling the others' answer.
            done, _ = await asyncio.wait((joined.task,), timeout=limit)
        finally:
            joined.waiting -= 1
            if not joined.waiting and not joined.task.done():
                joined.task.cancel()
                self._scraping = None
        if done:
            return joined.task.result()
        self._self_metrics.scrape_duration.set(limit)
        return self._without_engine(_Failure("timeout", f"no answer within {limit:g} s"))

    async def packed(self, page: Page) -> bytes:
        """Return a page compressed by gzip."""
        return await page.packed(self._threads)

    async def close(self) -> None:
        """Cancel a scrape that is in progress."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._scraping is not None:
            self._scraping.task.cancel()
            await asyncio.gather(self._scraping.task, return_exceptions=True)

    async def _scrape(self, url: str) -> Page:
        started = time.perf_counter()
        fetched = await self._fetch(url)
        if isinstance(fetched, _Failure):
            self._self_metrics.scrape_duration.set(time.perf_counter() - started)
            return self._without_engine(fetched)
        if self._last_failure is not None:
            log.info("engine scraped again after=%s", self._last_failure)
        self._last_failure = None
        large = len(fetched.pieces) > 1
        if large and len(self._large) >= LARGE_PAGES:
            message = f"{LARGE_PAGES} large pages are still being sent to slow readers"
            return self._without_engine(_Failure("busy", message))
        self._self_metrics.engine_up.set(1)
        self._self_metrics.scrape_duration.set(time.perf_counter() - started)
        own_text, rules = self._self_metrics.text(fetched.form), self._rules(fetched.form)
        if large:
            loop = asyncio.get_running_loop()
            rewritten = await loop.run_in_executor(
                self._threads, rewrite, fetched.pieces, rules, own_text, self._supplied()
            )
        else:
            rewritten = rewrite(fetched.pieces, rules, own_text, self._supplied())
        if rewritten.conflicts != self._conflicts:
            self._conflicts = rewritten.conflicts
            log.warning(
                "engine has metrics with the same names as the sidecar, which leaves out its own names=%s",
                ",".join(rewritten.conflicts),
            )
        page = Page(rewritten.parts, fetched.form)
        if large:
            self._large.add(page)
        return page

    def _without_engine(self, failure: _Failure) -> Page:
        self._self_metrics.engine_up.set(0)
        self._self_metrics.scrape_errors.count(failure.reason)
        now = time.monotonic()
        if self._last_failure != failure.reason and now - self._warned.get(failure.reason, -QUIET) >= QUIET:
            log.warning("engine not scraped reason=%s message=%s", failure.reason, failure.message)
            self._last_failure = failure.reason
            self._warned[failure.reason] = now
        return Page((self._self_metrics.text(),))

    def _supplied(self) -> Mapping[str, Sequence[Sample]]:
        """Return what no metric of the engine has, but its other answers have."""
        view = self._view()
        if view.context_tokens is None:
            return {}
        model = ((b"model_name", quoted(view.base_models[0])),)
        return {"model_context_tokens": (Sample(model, view.context_tokens),)}

    async def _fetch(self, url: str) -> _Fetched | _Failure:
        pieces: list[bytes] = []
        rest = bytearray()
        size = 0
        try:
            async with self._http.stream("GET", url, headers=_HEADERS, timeout=LONGEST) as response:
                if response.status_code != 200:
                    return _Failure("status", f"the engine answered {response.status_code}")
                kind = response.headers.get("content-type", "text/plain")
                if not kind.startswith(("text/plain", "application/openmetrics-text")):
                    return _Failure("garbage", f"content type {kind[:100]!r}")
                coding = response.headers.get("content-encoding", "identity")
                if coding != "identity":
                    # A few bytes can become millions, and the scraper did not ask for it.
                    return _Failure("garbage", f"content encoding {coding[:100]!r}")
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > LARGEST:
                        return _Failure("too_large", f"the answer has more than {LARGEST} bytes")
                    rest += chunk
                    if len(rest) >= PIECE:
                        end = rest.rfind(b"\n") + 1
                        if not end:
                            return _Failure("garbage", f"a line of more than {PIECE} bytes")
                        pieces.append(bytes(rest[:end]))
                        del rest[:end]
        except httpx.TimeoutException:
            return _Failure("timeout", f"no answer within {LONGEST:g} s")
        except httpx.ConnectError as error:
            return _Failure("connection", error_message(error))
        # An engine that answers with a TLS alert has ssl.SSLError escape httpx.
        except (httpx.HTTPError, OSError) as error:
            return _Failure("broken", error_message(error))
        if rest or not pieces:
            pieces.append(bytes(rest))
        if not _METRICS.match(pieces[0]):
            return _Failure("garbage", "the answer is not in the Prometheus text format")
        return _Fetched(tuple(pieces), Format.TEXT if kind.startswith("text/plain") else Format.OPENMETRICS)

"""Lets scrapers of metrics in: has the API server review their tokens, and remembers the answers for a short while.

A shell; what answers mean is `security.scraper_rules`' to say. Everyone who reaches the port can send tokens, so what
they cost the API server is bounded: a token that was admitted before is asked about once a minute, and all others share
a small allowance. Tokens are never kept nor logged, only their digests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from patio_kube.client import ApiError, Object
from patio_kube.resources import SUBJECT_ACCESS_REVIEW, TOKEN_REVIEW, Resource
from patio_operator.security import scraper_rules
from patio_operator.security.scraper_rules import BAD_TOKEN, CANNOT_TELL, NO_TOKEN, TOO_MANY, ScraperRejection

log = logging.getLogger(__name__)

ADMITTED_SECONDS = 60.0
"""After which the API server is asked again about a token that was admitted."""
DENIED_SECONDS = 10.0
"""After which it is asked again about one that was not."""
KNOWN_SECONDS = 7200.0
"""For which a token that was admitted needs nothing of the allowance. The kubelet renews a token each hour."""
MOST_KNOWN = 64
MOST_DENIED = 256
"""Tokens that are remembered; of more, the oldest are forgotten."""
AT_ONCE = 10.0
PER_SECOND = 1.0
"""Questions about tokens that were not admitted before: so many at once, and after that so many a second."""
ANSWER_SECONDS = 5.0
"""For both questions: Prometheus waits ten seconds for metrics."""
LOG_EVERY = 60.0
"""Seconds between lines of the log about an API server that does not answer."""

Create = Callable[[Resource, Object], Awaitable[Object]]
"""Has the API server answer a review; raises `ApiError`."""


@dataclass(frozen=True)
class _Reviewed:
    rejection: ScraperRejection | None
    at: float


class Scrapers:
    """Says of each caller whether it may read metrics."""

    def __init__(self, create: Create, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._create = create
        self._clock = clock
        self._admitted: dict[bytes, _Reviewed] = {}
        self._denied: dict[bytes, _Reviewed] = {}
        self._asking: dict[bytes, asyncio.Task[ScraperRejection | None]] = {}
        self._allowance = AT_ONCE
        self._counted = clock()
        self._log_next = 0.0

    async def rejection(self, authorization: str | None) -> ScraperRejection | None:
        """Return why the sender of a header Authorization does not get the metrics; None: it does."""
        token = scraper_rules.bearer_token(authorization)
        if token is None:
            return NO_TOKEN
        digest, now = hashlib.sha256(token.encode()).digest(), self._clock()
        admitted, denied = self._admitted.get(digest), self._denied.get(digest)
        if admitted is not None and now - admitted.at < ADMITTED_SECONDS:
            return None
        if denied is not None and now - denied.at < DENIED_SECONDS:
            return denied.rejection
        asking = self._asking.get(digest)
        if asking is None:
            admitted_before = admitted is not None and now - admitted.at < KNOWN_SECONDS
            if not admitted_before and not self._may_ask(now):
                return TOO_MANY
            asking = self._asking[digest] = asyncio.create_task(self._review(token), name="review of a scraper")
            asking.add_done_callback(lambda task: self._remember(digest, task))
        return await asyncio.shield(asking)

    def _may_ask(self, now: float) -> bool:
        self._allowance = min(AT_ONCE, self._allowance + (now - self._counted) * PER_SECOND)
        self._counted = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    async def _review(self, token: str) -> ScraperRejection | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reviewed = await self._create(TOKEN_REVIEW, scraper_rules.token_review(token))
                question = scraper_rules.access_review(reviewed)
                if question is None:
                    return BAD_TOKEN
                return scraper_rules.rejection(await self._create(SUBJECT_ACCESS_REVIEW, question))
        except ApiError as error:
            self._complain(error.message)
        except TimeoutError:
            self._complain("no answer in time")
        return CANNOT_TELL

    def _remember(self, digest: bytes, task: asyncio.Task[ScraperRejection | None]) -> None:
        del self._asking[digest]
        if task.cancelled() or task.exception() is not None or task.result() is CANNOT_TELL:
            return
        rejection = task.result()
        self._admitted.pop(digest, None)
        self._denied.pop(digest, None)
        reviewed, most = (self._admitted, MOST_KNOWN) if rejection is None else (self._denied, MOST_DENIED)
        while len(reviewed) >= most:
            del reviewed[next(iter(reviewed))]
        reviewed[digest] = _Reviewed(rejection, self._clock())

    def _complain(self, why: str) -> None:
        now = self._clock()
        if now >= self._log_next:
            self._log_next = now + LOG_EVERY
            log.error("callers of the metrics are not let in: the API server did not review their tokens: %s", why)

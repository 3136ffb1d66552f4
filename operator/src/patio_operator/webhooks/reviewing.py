"""How a review comes in and its answer goes out: limits, decoding, counting. One way for every kind of review.

`server`, `profiles` and `loraadapters` give each route its `answer`, which gets a review that has the shape of one.
A client that reaches the port can post anything: the length is declared and bounded before a body is read, bodies that
are read at the same time share a bounded room for each kind, reading and answering have deadlines. What is no review is
answered with 400 and a sentence, and never with 500.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from aiohttp import web

from patio_api.invalid_field import InvalidField
from patio_kube.client import ApiError, Object
from patio_operator.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

MiB = 1024 * 1024
DEEPEST = 64
"""Levels of lists and objects in a review. A pod has about twenty, with its managed fields."""
READ_SECONDS = 10.0
"""For the body, which the API server sends at once."""
WAIT_SECONDS = 5.0
"""How long a review waits for room behind others."""
ANSWER_SECONDS = 30.0
"""The longest timeout that a webhook can have: no client waits longer for the answer."""


@dataclass(frozen=True)
class Decision:
    """The AdmissionReview that answers another one."""

    review: Object
    reason: str
    """One word for the metrics: what it came to."""


@dataclass(frozen=True)
class Outcome:
    """What a review came to, as metrics count it."""

    outcome: str
    """allowed, rejected or error."""
    reason: str
    warnings: int = 0
    """How many the answer has."""


Decide = Callable[[Object], Awaitable[Decision]]
"""Takes a review and decides it."""
Count = Callable[[Outcome, float], None]
"""Takes what a review came to, and how long it took."""
Answer = Callable[[bytes], Awaitable["Reply"]]
"""Takes a review and answers it, both as they are sent."""
Handler = Callable[[web.Request], Awaitable[web.Response]]
METRICS = web.AppKey("telemetry", Metrics)
"""Where an application has what counts its reviews."""


class InvalidReviewError(ValueError):
    """The body is no review; the message says why."""


@dataclass(frozen=True)
class Reply:
    """The answer to a review, and what it came to."""

    text: str
    outcome: Outcome


class BusyError(Exception):
    """There was no room for a review in time."""


@dataclass(frozen=True)
class Limits:
    """What one kind of review may take of the process."""

    longest: int
    """Bytes of one body."""
    bytes_at_once: int
    """Bytes of all bodies that are in work."""
    at_once: int = 256
    """Reviews that are in work."""


VALIDATIONS = Limits(longest=8 * MiB, bytes_at_once=16 * MiB, at_once=64)
"""Of one kind of object. A review has an object twice: as it is and as it is to be."""


@dataclass
class Gate:
    """Lets reviews in as long as there is room; others wait in line."""

    limits: Limits
    _bytes: int = 0
    _count: int = 0
    _left: asyncio.Condition = field(default_factory=asyncio.Condition)

    @asynccontextmanager
    async def reserve(self, length: int) -> AsyncIterator[None]:
        """Hold room for a body of this length.

        Raises:
            BusyError: there was none in time.

        """
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._left:
                await self._left.wait_for(lambda: self._fits(length))
                self._bytes += length
                self._count += 1
        except TimeoutError:
            raise BusyError from None
        try:
            yield
        finally:
            self._bytes -= length
            self._count -= 1
            async with self._left:
                self._left.notify_all()

    def _fits(self, length: int) -> bool:
        return self._count < self.limits.at_once and self._bytes + length <= self.limits.bytes_at_once


def handler(
    what: str, answer: Answer, limits: Limits, count: Count, *, stopping: Callable[[], bool] = lambda: False
) -> Handler:
    """Return the handler of a route of reviews.

    Args:
        what: what is reviewed, in words: "an AdmissionReview of a pod".
        answer: decides.
        limits: what its reviews may take of the process.
        count: is called with each outcome.
        stopping: whether this replica is about to end: then each answer ends its connection, so that the API server
            takes the next question to another replica.

    """
    gate = Gate(limits)

    async def handle(request: web.Request) -> web.Response:
        started = time.perf_counter()
        try:
            length = _declared(request, limits.longest)
            async with gate.reserve(length):
                async with asyncio.timeout(READ_SECONDS):
                    data = await request.read()
                async with asyncio.timeout(ANSWER_SECONDS):
                    reply = await answer(data)
            outcome = reply.outcome
            response = web.Response(text=reply.text, content_type="application/json")
        except web.HTTPException:
            count(_error("not_a_review"), time.perf_counter() - started)
            raise
        except ApiError as error:
            outcome = _error("api_error")
            log.error("%s not answered: %s", what, error.message)
            response = _problem(500, error.message)
        except BusyError:
            outcome = _error("busy")
            log.error("%s not answered: too many reviews at once", what)
            response = _problem(503, "too many reviews at once")
        except ConnectionError:
            outcome = _error("incomplete")
            log.warning("%s not read: the client closed the connection", what)
            response = _problem(400, "the body is incomplete")
        except TimeoutError:
            outcome = _error("timeout")
            log.error("%s not answered in time", what)
            response = _problem(503, "the review was not answered in time")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            # A review of the API server has the fields and types of its kind: what lacks them is none.
            outcome = _error("not_a_review")
            log.error("%s not understood: %s: %s", what, type(error).__name__, str(error)[:500])
            reason = f": {error}" if isinstance(error, InvalidReviewError) else ""
            response = _problem(400, f"not {what}{reason}")
        count(outcome, time.perf_counter() - started)
        if stopping():
            response.force_close()
        return response

    return handle


def deciding(decide: Decide) -> Answer:
    """Return what answers the AdmissionReviews that are some."""

    async def answer(data: bytes) -> Reply:
        decision = await decide(read_review(data))
        response = decision.review["response"]
        outcome = "allowed" if response["allowed"] else "rejected"
        warnings = len(response.get("warnings") or ())
        return Reply(json.dumps(decision.review), Outcome(outcome, decision.reason, warnings))

    return answer


def add_validation(
    app: web.Application, path: str, webhook: str, kind: str, decide: Decide, limits: Limits = VALIDATIONS
) -> None:
    """Serve the reviews of one kind of object before it is stored; `webhook` is its name in metrics."""
    count = counting(app[METRICS], webhook)
    app.router.add_post(path, handler(f"an AdmissionReview of a {kind}", deciding(decide), limits, count))


class Kind(Protocol):
    """A model of a kind of objects."""

    group: ClassVar[str]
    kind: ClassVar[str]


def decided(review: Mapping[str, Any], response: Object, reason: str) -> Decision:
    """Return a decision: `response` without the review's UID, and what the metrics say of it."""
    answered = {"uid": review["request"]["uid"], **response}
    return Decision({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": answered}, reason)


def invalid(
    kind: type[Kind], name: str, problems: Iterable[InvalidField], message: str, why: str = "FieldValueInvalid"
) -> Object:
    """Return the response that rejects an object of a kind for some of its fields."""
    causes = [{"field": problem.path, "message": problem.message, "reason": why} for problem in problems]
    details = {"name": name, "group": kind.group, "kind": kind.kind, "causes": causes}
    return {"allowed": False, "status": {"code": 422, "reason": "Invalid", "message": message, "details": details}}


def counting(metrics: Metrics, webhook: str) -> Count:
    """Return what counts the reviews of one webhook."""

    def count(came_to: Outcome, seconds: float) -> None:
        metrics.reviewed(webhook, came_to.outcome, came_to.reason, came_to.warnings, seconds)

    return count


def read_review(data: bytes) -> Object:
    """Decode a review.

    Raises:
        InvalidReviewError: it is none.

    """
    try:
        review = json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise InvalidReviewError("it is nested too deeply") from None
    except ValueError:
        raise InvalidReviewError("it is not JSON") from None
    if not _shallow(review):
        raise InvalidReviewError(f"it is nested more than {DEEPEST} levels deep")
    if not isinstance(review, dict):
        raise InvalidReviewError("it is not an object")
    request = review.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise InvalidReviewError("it has no request with a uid")
    if not isinstance(review.get("apiVersion"), str):
        raise InvalidReviewError("it has no apiVersion")
    for key in ("object", "oldObject"):
        body = request.get(key)
        if body is not None and not (isinstance(body, dict) and isinstance(body.get("metadata"), dict)):
            raise InvalidReviewError(f"request.{key} is not an object with metadata")
    return review


def _declared(request: web.Request, longest: int) -> int:
    """Return the length of the body, before it is read."""
    length = request.content_length
    if length is None:
        raise web.HTTPLengthRequired(text="Send a Content-Length header.")
    if length > longest:
        raise web.HTTPRequestEntityTooLarge(longest, length, text=f"A review has at most {longest} bytes.")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise web.HTTPUnsupportedMediaType(text="Send the review without a Content-Encoding.")
    return length


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _shallow(value: object) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        if not level:
            return True
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return not level


def _error(reason: str) -> Outcome:
    return Outcome("error", reason)


def _problem(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)

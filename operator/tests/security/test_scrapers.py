"""Who may read the metrics: what the API server is asked, how often, and what its answers mean."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from patio_kube.client import InvalidError, Object, RetryableApiError
from patio_kube.resources import SUBJECT_ACCESS_REVIEW, TOKEN_REVIEW, Resource
from patio_operator.security import scraper_rules, scrapers
from patio_operator.security.scraper_rules import BAD_TOKEN, CANNOT_TELL, NO_TOKEN, TOO_MANY, bearer_token
from patio_operator.security.scrapers import Scrapers

USER = {"username": "system:serviceaccount:monitoring:prometheus", "uid": "u", "groups": ["a"], "extra": {"k": ["v"]}}


class ReviewingApi:
    """What an API server says of tokens: `good` may read metrics, `other` may not, all others are not known."""

    def __init__(self) -> None:
        self.requests: list[tuple[Resource, Object]] = []
        self.fault: Exception | None = None
        self.slow: asyncio.Event | None = None

    async def create(self, kind: Resource, body: Object) -> Object:
        self.requests.append((kind, body))
        if self.slow is not None:
            await self.slow.wait()
        if self.fault is not None:
            raise self.fault
        if kind is TOKEN_REVIEW:
            token = body["spec"]["token"]
            user = USER | {"username": f"{USER['username']}-{token}"}
            known = token.startswith(("good", "other"))
            return body | {"status": {"authenticated": True, "user": user} if known else {"error": "expired"}}
        assert kind is SUBJECT_ACCESS_REVIEW
        return body | {"status": {"allowed": "good" in body["spec"]["user"]}}


def scrapers_of(api: ReviewingApi) -> tuple[Scrapers, list[float]]:
    now = [1000.0]
    return Scrapers(api.create, lambda: now[0]), now


async def test_token_is_reviewed_and_its_user_asked_about() -> None:
    api = ReviewingApi()
    admitting, _ = scrapers_of(api)
    assert await admitting.rejection("Bearer good") is None
    (first, review), (second, access) = api.requests
    assert (first, review["spec"]) == (TOKEN_REVIEW, {"token": "good"})
    assert second is SUBJECT_ACCESS_REVIEW
    assert access["spec"] == {
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        "user": f"{USER['username']}-good",
        "uid": "u",
        "groups": ["a"],
        "extra": {"k": ["v"]},
    }


async def test_user_without_the_right_and_unknown_tokens_are_denied() -> None:
    admitting, _ = scrapers_of(ReviewingApi())
    rejection = await admitting.rejection("Bearer other")
    assert rejection is not None
    assert rejection.status == 403
    assert f"{USER['username']}-other may not get /metrics" in rejection.message
    assert await admitting.rejection("Bearer bad") == BAD_TOKEN


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic good", "good", "Bearer a b", "Bearer \u00e9", "Bearer " + "x" * 8001],
)
async def test_header_without_a_token_asks_nothing(header: str | None) -> None:
    api = ReviewingApi()
    assert await scrapers_of(api)[0].rejection(header) == NO_TOKEN
    assert not api.requests


def test_scheme_is_read_in_any_case_and_token_at_the_limit() -> None:
    assert bearer_token("bearer abc") == "abc"
    assert bearer_token("Bearer " + "x" * scraper_rules.LONGEST_TOKEN) == "x" * scraper_rules.LONGEST_TOKEN


async def test_answer_is_remembered_for_a_while_and_asked_again() -> None:
    api = ReviewingApi()
    admitting, now = scrapers_of(api)
    for header, seconds, questions in (
        ("Bearer good", scrapers.ADMITTED_SECONDS, 2),
        ("Bearer other", scrapers.DENIED_SECONDS, 2),
        ("Bearer bad", scrapers.DENIED_SECONDS, 1),
    ):
        first = await admitting.rejection(header)
        now[0] += seconds - 0.5
        assert await admitting.rejection(header) == first
        assert len(api.requests) == questions
        now[0] += 1
        assert await admitting.rejection(header) == first
        assert len(api.requests) == 2 * questions
        api.requests.clear()


async def test_right_that_is_taken_away_ends_within_a_minute() -> None:
    api = ReviewingApi()
    admitting, now = scrapers_of(api)
    assert await admitting.rejection("Bearer good") is None
    api.fault = RetryableApiError(0, "away")
    assert await admitting.rejection("Bearer good") is None
    now[0] += scrapers.ADMITTED_SECONDS
    assert await admitting.rejection("Bearer good") == CANNOT_TELL


async def test_flood_of_unknown_tokens_shuts_no_scraper_out() -> None:
    api = ReviewingApi()
    admitting, now = scrapers_of(api)
    assert await admitting.rejection("Bearer good") is None
    api.requests.clear()
    answers = [await admitting.rejection(f"Bearer bad-{number}") for number in range(1000)]
    assert len(api.requests) <= scrapers.AT_ONCE
    assert answers[-1] == TOO_MANY
    now[0] += scrapers.ADMITTED_SECONDS
    for number in range(1000):
        await admitting.rejection(f"Bearer worse-{number}")
    api.requests.clear()
    assert await admitting.rejection("Bearer good") is None
    assert len(api.requests) == 2, "asked again, and not kept out by the others"
    now[0] += 1 / scrapers.PER_SECOND + 0.1
    assert await admitting.rejection("Bearer good-too") is None, "a new scraper gets its turn"


async def test_only_so_many_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapers, "MOST_KNOWN", 3)
    monkeypatch.setattr(scrapers, "MOST_DENIED", 3)
    admitting, now = scrapers_of(ReviewingApi())
    for number in range(20):
        now[0] += 10
        await admitting.rejection(f"Bearer good-{number}")
        await admitting.rejection(f"Bearer bad-{number}")
    assert (len(admitting._admitted), len(admitting._denied), len(admitting._asking)) == (3, 3, 0)
    kept = repr((admitting._admitted, admitting._denied))
    assert "good" not in kept, "no token is kept"


async def test_scrapes_at_the_same_time_share_one_question() -> None:
    api = ReviewingApi()
    api.slow = asyncio.Event()
    admitting, _ = scrapers_of(api)
    asking = [asyncio.create_task(admitting.rejection("Bearer good")) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    api.slow.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None] * 4
    assert len(api.requests) == 2


@pytest.mark.parametrize("fault", [RetryableApiError(0, "away"), InvalidError(403, "forbidden"), TimeoutError()])
async def test_api_server_without_an_answer_lets_no_one_in(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    api = ReviewingApi()
    api.fault = fault
    admitting, _ = scrapers_of(api)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert await admitting.rejection("Bearer good") == CANNOT_TELL
    assert len(caplog.records) == 1
    assert "good" not in caplog.text
    api.fault = None
    assert await admitting.rejection("Bearer good") is None, "a fault is not remembered"


@pytest.mark.parametrize(
    "status",
    [None, 7, {}, {"authenticated": "yes"}, {"authenticated": True}, {"authenticated": True, "user": {"username": ""}}],
)
def test_odd_token_review_is_no_user(status: Any) -> None:
    assert scraper_rules.access_review({"status": status}) is None


@pytest.mark.parametrize("status", [None, [], {}, {"allowed": "true"}, {"allowed": False}])
def test_odd_access_review_lets_no_one_in(status: Any) -> None:
    rejection = scraper_rules.rejection({"spec": {"user": "u"}, "status": status})
    assert rejection is not None
    assert rejection.status == 403

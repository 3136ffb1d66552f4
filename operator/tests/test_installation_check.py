"""The check that `helm test` runs: what it asks the API server, and what it says of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from patio_kube.client import InvalidError, NotFoundError, RetryableApiError
from patio_operator import installation_check
from patio_operator.installation_check import Outcome
from patio_testing.operator.memory_api import MemoryApi, Object, connected, serving

REVISIONS = {"patio.dev/injected": json.dumps({"patio": "r1"})}


def answer(**metadata: Any) -> Object:
    spec = {"initContainers": [{"name": "patio"}], "containers": [{"name": "engine"}]}
    return {"metadata": {"name": "x", **metadata}, "spec": spec}


class Injecting(MemoryApi):
    """An API server whose webhook injects from the second pod on."""

    def __init__(self) -> None:
        super().__init__()
        self.pods = 0

    def _answered(self, request: web.Request, body: Any) -> tuple[int, Object]:
        status, found = super()._answered(request, body)
        if request.path.endswith("/pods"):
            self.pods += 1
            if self.pods > 1:
                return status, answer(labels={"patio.dev/injected": "true"}, annotations=REVISIONS)
        return status, found


def test_injected_pod_passes_with_its_containers_named() -> None:
    pod = answer(labels={"patio.dev/injected": "true"}, annotations=REVISIONS)
    assert installation_check.judge_pod(pod, "patio") == Outcome(
        True, "a pod with the label patio.dev/profile=patio gets: patio"
    )


@pytest.mark.parametrize(
    "pod",
    [
        answer(),
        answer(labels={"patio.dev/injected": "true"}),
        answer(labels={"patio.dev/injected": "true"}, annotations={"patio.dev/injected": "["}),
        answer(labels={"patio.dev/injected": "true"}, annotations={"patio.dev/injected": '{"other": "r1"}'}),
        {},
    ],
)
def test_pod_without_the_profile_may_pass_later(pod: Object) -> None:
    outcome = installation_check.judge_pod(pod, "patio")
    assert (outcome.passed, outcome.retryable) == (False, True)
    assert "mutatingwebhookconfiguration/patio" in outcome.message


@pytest.mark.parametrize(
    ("error", "retryable", "message"),
    [
        (RetryableApiError(500, "failed calling webhook"), True, "failed calling webhook. Look at the operator's pods"),
        (RetryableApiError(0, "cannot be reached"), True, "could not be created yet: cannot be reached"),
        (
            NotFoundError(404, "404 page not found\n"),
            False,
            "that the namespace and the CRDs exist. 404 page not found",
        ),
        (InvalidError(403, "no profile patio"), False, "was rejected: no profile patio"),
    ],
)
def test_errors_say_whether_they_may_pass(error: Any, retryable: bool, message: str) -> None:
    outcome = installation_check.judge_error("a pod", error)
    assert (outcome.passed, outcome.retryable) == (False, retryable)
    assert message in outcome.message
    assert outcome.message == outcome.message.strip()


async def test_check_waits_for_an_operator_that_is_starting() -> None:
    messages: list[str] = []
    api = Injecting()
    async with serving(api) as address, connected(address) as client:
        found = await installation_check.until_passed(
            lambda: installation_check.check_pod(client, "default", "patio"), seconds=5, pause=0
        )
        assert found.passed
        assert await installation_check.run(client, "default", "patio", 0, messages.append)
    assert api.pods == 3
    assert [line.split(":")[0] for line in messages] == ["ok", "ok"]
    assert "a LoraAdapter is accepted" in messages[1]
    assert api.objects == {}, "nothing was stored"


async def test_every_check_is_made_also_after_a_failed_one() -> None:
    messages: list[str] = []
    api = MemoryApi()
    api.refused["/api/v1/namespaces/team/pods"] = 403
    async with serving(api) as address, connected(address) as client:
        assert not await installation_check.run(client, "team", "patio", 0, messages.append)
    assert [line.split(":")[0] for line in messages] == ["FAILED", "ok"]


async def test_check_that_never_passes_ends_at_its_deadline() -> None:
    times: Iterator[float] = iter(range(100))
    checks: list[int] = []

    async def never() -> Outcome:
        checks.append(1)
        return Outcome(False, "not yet", retryable=True)

    outcome = await installation_check.until_passed(never, seconds=5, pause=0, now=lambda: next(times))
    assert outcome.message == "not yet"
    assert len(checks) == 6

"""A Secret that replicas share: who is slower takes what the faster wrote, and nobody tries for ever."""

from __future__ import annotations

from typing import Any, cast

import pytest

from patio_kube.client import ApiError, ConflictError, KubeClient, NotFoundError
from patio_kube.shared_secret import MOST_TRIES, Decision, ensure_shared_secret


class Api:
    """An API server that says of the first writes that somebody was faster."""

    def __init__(self, fault: Exception, faster: int) -> None:
        self.fault = fault
        self.faster = faster
        self.reads = 0
        self.written: dict[str, Any] | None = None

    async def get(self, kind: Any, name: str, namespace: str) -> dict[str, Any]:
        self.reads += 1
        if self.written is None:
            raise NotFoundError(404, "not found")
        return self.written

    async def create(self, kind: Any, body: dict[str, Any], namespace: str) -> dict[str, Any]:
        if self.reads <= self.faster:
            raise self.fault
        self.written = body
        return body


def decide(secret: dict[str, Any] | None) -> Decision[str]:
    return Decision("new", {"key": "bmV3"}) if secret is None else Decision("there")


async def test_faster_replica_is_waited_for() -> None:
    api = Api(ConflictError(409, "exists"), MOST_TRIES - 1)
    assert await ensure_shared_secret(cast("KubeClient", api), "patio-system", "s", decide) == ("new", None)


@pytest.mark.parametrize("fault", [ConflictError(409, "exists"), NotFoundError(404, "no such namespace")])
async def test_write_that_never_works_is_given_up(fault: Exception) -> None:
    api = Api(fault, 10**9)
    with pytest.raises(type(fault)):
        await ensure_shared_secret(cast("KubeClient", api), "patio-system", "s", decide)
    assert api.reads == MOST_TRIES


async def test_what_is_there_counts_while_nothing_may_be_written() -> None:
    forbidden = ApiError(403, "secrets is forbidden")
    api = Api(forbidden, 10**9)

    def due(fallback: str | None) -> Decision[str]:
        return Decision("new", {"key": "bmV3"}, fallback=fallback)

    client = cast("KubeClient", api)
    assert await ensure_shared_secret(client, "patio-system", "s", lambda _: due("old")) == ("old", forbidden)
    with pytest.raises(ApiError):
        await ensure_shared_secret(client, "patio-system", "s", lambda _: due(None))

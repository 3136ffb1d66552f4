"""Envoy's own answers have OpenAI's shape."""

from __future__ import annotations

from pathlib import Path

from patio_gateway.control.replies import REPLIES, RETRY_AFTER, local_reply_config
from patio_gateway.snapshot import Snapshot
from patio_testing.model_gateway import running_gateway, until


def test_codes_are_unique_and_those_to_retry_say_when() -> None:
    codes = [reply.code for reply in REPLIES]
    assert len(set(codes)) == len(codes)
    assert {reply.retry_after for reply in REPLIES if reply.status in (429, 503)} == {RETRY_AFTER}
    assert len(local_reply_config()["mappers"]) == len(REPLIES)


def take_away(socket: str) -> None:
    Path(socket).unlink()


async def test_answer_while_the_front_is_away_has_openais_shape() -> None:
    async with running_gateway(Snapshot(closed=False)) as gateway:
        take_away(gateway.listening.front_socket)
        answer = await gateway.client.get("/v1/models", headers={"connection": "close"})
    assert answer.status_code == 503
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == "worker_unreachable"
    assert answer.headers["retry-after"] == "1"


async def test_requests_above_the_memory_are_503() -> None:
    async with running_gateway(Snapshot(closed=False), most_heap=1024 * 1024) as gateway:

        async def is_refused() -> bool:
            answer = await gateway.client.get("/v1/models")
            return answer.status_code == 503 and answer.json()["error"]["code"] == "overloaded"

        # Envoy looks at its memory once a second.
        await until(is_refused, "a request is refused")
        assert (await gateway.client.get("/v1/models")).headers["retry-after"] == "1"

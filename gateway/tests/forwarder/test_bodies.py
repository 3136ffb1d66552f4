"""Bodies of requests within bounds."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from patio_gateway.forwarder.bodies import Bodies, NoRoomError, TooLargeError, TooSlowError
from patio_testing.deadline import DEADLINE


def request(*chunks: bytes, hangs_up: bool = False) -> Request:
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if hangs_up else {"type": "http.request"})

    async def receive() -> Message:
        return messages.pop(0)

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def test_room_is_taken_while_a_body_is_kept() -> None:
    bodies = Bodies(4, 6, DEADLINE)
    async with bodies.read(request(b"ab", b"cd")) as body:
        assert body == b"abcd"
        with pytest.raises(NoRoomError):
            async with bodies.read(request(b"ab", b"c")):
                pass
        async with bodies.read(request(b"ab")) as other:
            assert other == b"ab"
    async with bodies.read(request(b"abcd")):
        pass


async def test_failed_reads_give_their_room_back() -> None:
    bodies = Bodies(4, 4, DEADLINE)
    for _ in range(3):
        with pytest.raises(TooLargeError):
            async with bodies.read(request(b"abc", b"de")):
                pass
        with pytest.raises(ClientDisconnect):
            async with bodies.read(request(b"abc", hangs_up=True)):
                pass
    async with bodies.read(request(b"abcd")) as body:
        assert body == b"abcd"


async def test_body_that_does_not_come_ends_in_time() -> None:
    async def never() -> Message:
        await asyncio.Event().wait()
        return {}

    bodies = Bodies(4, 4, 0.01)
    with pytest.raises(TooSlowError):
        async with bodies.read(Request({"type": "http", "method": "POST", "headers": []}, never)):
            pass
    async with bodies.read(request(b"abcd")) as body:
        assert body == b"abcd"

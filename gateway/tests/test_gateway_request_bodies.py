"""Bodies are read within bounds, and their memory is free afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from patio_gateway.request_bodies import Bodies, NoRoomError, TooLargeError, TooSlowError
from patio_testing.deadline import DEADLINE


def request(chunks: Iterable[bytes], hangs_up: bool = False) -> Request:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    last = {"type": "http.disconnect"} if hangs_up else {"type": "http.request", "body": b"", "more_body": False}
    waiting = iter([*messages, last])

    async def receive() -> dict[str, object]:
        return next(waiting)

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


async def kept(bodies: Bodies, chunks: Iterable[bytes], keep: int) -> tuple[int, bytes | None]:
    async with bodies.read(request(chunks), keep) as body:
        return body.size, body.kept


async def test_body_of_the_most_bytes_is_kept_and_one_more_is_not() -> None:
    bodies = Bodies(most=10, most_kept=100)
    assert await kept(bodies, [b"abc", b"de"], keep=5) == (5, b"abcde")
    assert await kept(bodies, [b"abc", b"def"], keep=5) == (6, None)


async def test_too_large_body_is_refused_at_its_first_byte_too_many() -> None:
    bodies = Bodies(most=10, most_kept=100)
    assert await kept(bodies, [b"x" * 10], keep=100) == (10, b"x" * 10)
    with pytest.raises(TooLargeError):
        await kept(bodies, [b"x" * 10, b"x"], keep=100)


async def test_second_body_waits_for_no_memory_of_the_first() -> None:
    bodies = Bodies(most=10, most_kept=10)
    async with bodies.read(request([b"x" * 6]), keep=10):
        with pytest.raises(NoRoomError):
            await kept(bodies, [b"x" * 5], keep=10)
        assert await kept(bodies, [b"x" * 4], keep=10) == (4, b"x" * 4)
    assert await kept(bodies, [b"x" * 10], keep=10) == (10, b"x" * 10)


@given(st.lists(st.lists(st.binary(max_size=8), max_size=5), max_size=8), st.integers(0, 20))
async def test_memory_is_free_after_any_bodies(all_chunks: list[list[bytes]], keep: int) -> None:
    bodies = Bodies(most=15, most_kept=20)
    for chunks in all_chunks:
        try:
            size, body = await kept(bodies, chunks, keep)
        except TooLargeError:
            continue
        assert size == sum(map(len, chunks))
        assert body in (b"".join(chunks), None)
        assert (body is None) == (size > keep)
    assert await kept(bodies, [b"x" * 15], keep=15) == (15, b"x" * 15)


async def test_room_is_taken_while_a_body_is_kept() -> None:
    bodies = Bodies(4, 6, DEADLINE)
    async with bodies.read_whole(request([b"ab", b"cd"])) as body:
        assert body == b"abcd"
        with pytest.raises(NoRoomError):
            async with bodies.read_whole(request([b"ab", b"c"])):
                pass
        async with bodies.read_whole(request([b"ab"])) as other:
            assert other == b"ab"
    async with bodies.read_whole(request([b"abcd"])):
        pass


async def test_failed_reads_give_their_room_back() -> None:
    bodies = Bodies(4, 4, DEADLINE)
    for _ in range(3):
        with pytest.raises(TooLargeError):
            async with bodies.read_whole(request([b"abc", b"de"])):
                pass
        with pytest.raises(ClientDisconnect):
            async with bodies.read_whole(request([b"abc"], hangs_up=True)):
                pass
    async with bodies.read_whole(request([b"abcd"])) as body:
        assert body == b"abcd"


async def test_body_that_does_not_come_ends_in_time() -> None:
    async def never() -> Message:
        await asyncio.Event().wait()
        return {}

    bodies = Bodies(4, 4, 0.01)
    with pytest.raises(TooSlowError):
        async with bodies.read_whole(Request({"type": "http", "method": "POST", "headers": []}, never)):
            pass
    async with bodies.read_whole(request([b"abcd"])) as body:
        assert body == b"abcd"

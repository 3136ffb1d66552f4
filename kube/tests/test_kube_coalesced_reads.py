"""Reads that many share, none of them older than the question."""

from __future__ import annotations

import asyncio

import pytest

from patio_kube.coalesced_reads import CoalescedReads


class Source:
    """Answers with the number of the read, when it is let."""

    def __init__(self) -> None:
        self.reads = 0
        self.let = asyncio.Event()
        self.started = asyncio.Event()

    async def read(self, key: str) -> str:
        self.reads += 1
        self.started.set()
        number = self.reads
        await self.let.wait()
        return f"{key}{number}"


async def test_reads_asked_for_during_a_read_share_the_next_one() -> None:
    source = Source()
    shared: CoalescedReads[str, str] = CoalescedReads(source.read)
    first = asyncio.create_task(shared.get("a"))
    await source.started.wait()
    later = [asyncio.create_task(shared.get("a")) for _ in range(200)]
    await asyncio.sleep(0)
    source.let.set()
    assert await first == "a1"
    assert set(await asyncio.gather(*later)) == {"a2"}
    assert source.reads == 2


async def test_later_request_makes_a_new_read() -> None:
    source = Source()
    source.let.set()
    shared: CoalescedReads[str, str] = CoalescedReads(source.read)
    assert [await shared.get("a"), await shared.get("a"), await shared.get("b")] == ["a1", "a2", "b3"]


async def test_cancelled_read_takes_nothing_from_the_others() -> None:
    source = Source()
    shared: CoalescedReads[str, str] = CoalescedReads(source.read)
    cancelled, stays = (asyncio.create_task(shared.get("a")) for _ in range(2))
    await source.started.wait()
    cancelled.cancel()
    source.let.set()
    assert await stays == "a1"


async def test_failed_read_fails_only_for_those_who_asked_for_it() -> None:
    answers = iter([ValueError("broken"), "fine"])

    async def read(_: str) -> str:
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    shared: CoalescedReads[str, str] = CoalescedReads(read)
    with pytest.raises(ValueError, match="broken"):
        await shared.get("a")
    assert await shared.get("a") == "fine"

"""Work in the background: begun once, bounded, tried again after a pause."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

import pytest

from patio_kube.runtime import task_pool
from patio_kube.runtime.task_pool import KeyedTaskPool
from patio_testing.deadline import DEADLINE


class Ends:
    """Counts what `on_end` tells."""

    def __init__(self) -> None:
        self.namespaces: list[str] = []
        self._called = asyncio.Event()

    def __call__(self, namespace: str) -> None:
        self.namespaces.append(namespace)
        self._called.set()

    async def reach(self, number: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(self.namespaces) < number:
                self._called.clear()
                await self._called.wait()


async def test_task_in_progress_is_not_begun_again() -> None:
    ends = Ends()
    work = KeyedTaskPool("test", 10, 10, random.Random(0), ends)
    release = asyncio.Event()
    begun = 0

    async def task() -> bool:
        nonlocal begun
        begun += 1
        await release.wait()
        return True

    assert work.submit("team", "pod", "key", task)
    assert not work.submit("team", "pod", "key", task)
    release.set()
    await ends.reach(1)
    assert (begun, ends.namespaces) == (1, ["team"])
    assert work.submit("team", "pod", "key", task)
    await work.close()


async def test_one_peer_that_is_slow_takes_the_places_of_no_other() -> None:
    ends = Ends()
    work = KeyedTaskPool("test", 3, 2, random.Random(0), ends)
    release = asyncio.Event()
    running: set[str] = set()

    def job(name: str) -> Callable[[], object]:
        async def task() -> bool:
            running.add(name)
            await release.wait()
            return True

        return task

    for number in range(5):
        work.submit("team", "slow", f"slow-{number}", job(f"slow-{number}"))  # type: ignore[arg-type]
    for number in range(5):
        work.submit("team", "other", f"other-{number}", job(f"other-{number}"))  # type: ignore[arg-type]
    for _ in range(20):
        await asyncio.sleep(0)
    assert running == {"slow-0", "slow-1", "other-0"}
    release.set()
    await ends.reach(10)
    assert len(running) == 10


async def test_failed_task_waits_for_a_growing_pause_and_then_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_pool, "FIRST_PAUSE", 0.02)
    ends = Ends()
    work = KeyedTaskPool("test", 10, 10, random.Random(0), ends)
    times: list[float] = []

    async def task() -> bool:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 2:
            raise RuntimeError("a fault of the program counts as a failure")
        return len(times) == 4

    for number in range(1, 5):
        assert work.submit("team", "pod", "key", task)
        await asyncio.sleep(0)
        assert not work.submit("team", "pod", "key", task)
        await ends.reach(number)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[0] >= 0.02
    assert pauses[1] >= 0.04
    assert pauses[2] >= 0.08
    await work.close()


async def test_nothing_goes_on_after_the_end() -> None:
    ends = Ends()
    work = KeyedTaskPool("test", 10, 10, random.Random(0), ends)
    ended = asyncio.Event()

    async def task() -> bool:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return True

    work.submit("team", "pod", "key", task)
    await asyncio.sleep(0)
    await work.close()
    assert ended.is_set()
    assert ends.namespaces == []


async def test_one_namespace_leaves_places_for_another() -> None:
    ends = Ends()
    work = KeyedTaskPool("test", 4, 4, random.Random(0), ends, 3)
    release = asyncio.Event()
    running: list[str] = []

    def job(name: str) -> Callable[[], Awaitable[bool]]:
        async def task() -> bool:
            running.append(name)
            await release.wait()
            return True

        return task

    for namespace in ("slow", "other"):
        for number in range(10):
            work.submit(namespace, f"{namespace}-{number}", f"{namespace}-{number}", job(namespace))
    for _ in range(20):
        await asyncio.sleep(0)
    assert running == ["slow", "slow", "slow", "other"]
    release.set()
    await ends.reach(20)
    assert running[4:8].count("other") >= 2, "they take turns"


async def test_what_waits_costs_no_task() -> None:
    work = KeyedTaskPool("test", 4, 2, random.Random(0), Ends())
    before = len(asyncio.all_tasks())

    async def task() -> bool:
        await asyncio.Event().wait()
        return True

    for number in range(10_000):
        assert work.submit("team", f"pod-{number % 100}", number, task)
    assert len(asyncio.all_tasks()) - before == 4
    await work.close()
    assert work.submit("team", "pod-1", 1, task)
    await work.close()


async def test_namespace_with_endless_tasks_blocks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_pool, "MOST", 20)
    monkeypatch.setattr(task_pool, "IN_ANY_CASE", 3)
    ends = Ends()
    work = KeyedTaskPool("test", 4, 4, random.Random(0), ends, 3)

    async def never() -> bool:
        await asyncio.Event().wait()
        return True

    async def done() -> bool:
        return True

    assert [work.submit("slow", f"pod-{number}", number, never) for number in range(30)].count(True) == 20
    assert [work.submit("other", "pod", f"other-{number}", done) for number in range(9)].count(True) == 3
    await ends.reach(3)
    assert ends.namespaces == ["other"] * 3
    await work.close()
    assert work.submit("other", "pod", "other", done)
    await work.close()


async def test_job_that_waits_for_something_cancelled_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_pool, "FIRST_PAUSE", 0.001)
    ends = Ends()
    work = KeyedTaskPool("test", 1, 1, random.Random(0), ends)

    async def cancelled() -> bool:
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        return bool(await other)

    async def done() -> bool:
        return True

    work.submit("team", "pod", "cancelled", cancelled)
    work.submit("other", "pod", "done", done)
    await ends.reach(2)
    assert set(ends.namespaces) == {"team", "other"}
    await work.close()

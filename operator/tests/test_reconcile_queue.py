"""The work queue."""

from __future__ import annotations

import asyncio

from patio_operator.reconcile.queue import LONGEST_PAUSE, Key, WorkQueue, pause_after


async def reached(condition: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await condition.wait()


async def test_a_burst_of_wakes_is_worked_off_once() -> None:
    worked: list[Key] = []
    done = asyncio.Event()

    async def work(key: Key) -> None:
        worked.append(key)
        if key == ("last",):
            done.set()

    queue = WorkQueue("test", work)
    task = asyncio.create_task(queue.run())
    for _ in range(50):
        queue.wake(("a",))
    queue.wake(("last",))
    await reached(done)
    task.cancel()
    assert worked == [("a",), ("last",)]


async def test_a_wake_during_the_work_means_one_more_pass() -> None:
    passes = 0
    done = asyncio.Event()

    async def work(key: Key) -> None:
        nonlocal passes
        passes += 1
        if passes == 1:
            queue.wake(key)
        else:
            done.set()

    queue = WorkQueue("test", work)
    queue.wake(("a",))
    task = asyncio.create_task(queue.run())
    await reached(done)
    task.cancel()
    assert passes == 2


async def test_a_fault_brings_its_key_back_and_leaves_the_others_alone() -> None:
    tries = 0
    other, healed = asyncio.Event(), asyncio.Event()

    async def work(key: Key) -> None:
        nonlocal tries
        if key == ("good",):
            other.set()
            return
        tries += 1
        if tries == 1:
            raise RuntimeError("once")
        healed.set()

    queue = WorkQueue("test", work)
    task = asyncio.create_task(queue.run())
    queue.wake(("bad",))
    queue.wake(("good",))
    await reached(other)
    await reached(healed)
    task.cancel()
    assert tries == 2


async def test_work_may_ask_to_come_again() -> None:
    passes = 0
    done = asyncio.Event()

    async def work(_: Key) -> float | None:
        nonlocal passes
        passes += 1
        if passes == 1:
            return 0.01
        done.set()
        return None

    queue = WorkQueue("test", work)
    task = asyncio.create_task(queue.run())
    queue.wake(("a",))
    await reached(done)
    task.cancel()


async def test_a_queue_that_stopped_collects_and_begins_again_with_every_key_it_ever_had() -> None:
    worked: list[Key] = []
    enough = asyncio.Event()

    async def work(key: Key) -> None:
        worked.append(key)
        if len(worked) in (1, 3):
            enough.set()

    queue = WorkQueue("test", work)
    queue.wake(("a",))
    task = asyncio.create_task(queue.run())
    await reached(enough)
    task.cancel()
    await asyncio.wait((task,))
    enough.clear()
    queue.wake(("b",))
    task = asyncio.create_task(queue.run())
    await reached(enough)
    task.cancel()
    assert sorted(worked) == [("a",), ("a",), ("b",)]


def test_no_number_of_failures_is_too_many() -> None:
    assert [pause_after(failures) for failures in (1, 2, 3, 100_000)] == [0.5, 1.0, 2.0, LONGEST_PAUSE]

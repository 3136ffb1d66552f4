"""The work queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from patio_kube.runtime import workqueue as queue_module
from patio_kube.runtime.workqueue import FIRST_PAUSE, Key, Work, WorkQueue
from patio_testing.deadline import DEADLINE
from patio_testing.operator.waiting import until


async def reached(condition: asyncio.Event) -> None:
    async with asyncio.timeout(DEADLINE):
        await condition.wait()


@asynccontextmanager
async def working(queue: WorkQueue, work: Work) -> AsyncIterator[None]:
    """Run a queue meanwhile."""
    task = asyncio.create_task(queue.run(work))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_burst_of_wakes_is_worked_off_once() -> None:
    worked: list[Key] = []
    done = asyncio.Event()

    async def work(key: Key) -> None:
        worked.append(key)
        if key == ("last",):
            done.set()

    queue = WorkQueue("test")
    task = asyncio.create_task(queue.run(work))
    for _ in range(50):
        queue.add(("a",))
    queue.add(("last",))
    await reached(done)
    task.cancel()
    assert worked == [("a",), ("last",)]


async def test_wake_during_the_work_means_one_more_pass() -> None:
    passes = 0
    done = asyncio.Event()

    async def work(key: Key) -> None:
        nonlocal passes
        passes += 1
        if passes == 1:
            queue.add(key)
        else:
            done.set()

    queue = WorkQueue("test")
    queue.add(("a",))
    task = asyncio.create_task(queue.run(work))
    await reached(done)
    task.cancel()
    assert passes == 2


async def test_fault_brings_its_key_back_and_leaves_the_others_alone() -> None:
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

    queue = WorkQueue("test")
    task = asyncio.create_task(queue.run(work))
    queue.add(("bad",))
    queue.add(("good",))
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

    queue = WorkQueue("test")
    task = asyncio.create_task(queue.run(work))
    queue.add(("a",))
    await reached(done)
    task.cancel()


@asynccontextmanager
async def running(queue: WorkQueue, work: Work) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run(work))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_queue_that_begins_works_on_all_that_there_is() -> None:
    existing: list[Key] = [("a",), ("b",)]
    worked: list[Key] = []

    async def work(key: Key) -> None:
        worked.append(key)

    queue = WorkQueue("test", lambda: existing)
    for number in range(1000):
        queue.add((f"woken while another replica leads {number}",))
    assert len(queue) == 0
    async with running(queue, work):
        await until("all of them", lambda: sorted(worked) == existing)
    existing.append(("c",))
    async with running(queue, work):
        await until("all once more", lambda: sorted(worked[2:]) == existing)


async def test_keys_that_are_woken_before_it_begins_are_kept() -> None:
    worked: list[Key] = []

    async def work(key: Key) -> None:
        worked.append(key)

    queue = WorkQueue("test")
    queue.add(("a",))
    async with running(queue, work):
        await until("worked on", lambda: worked == [("a",)])


async def test_only_so_many_keys_are_worked_on_at_once() -> None:
    at_once, most, done = 0, 0, 0

    async def work(_: Key) -> None:
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        done += 1

    queue = WorkQueue("test", workers=3)
    for number in range(200):
        queue.add((f"key {number}",))
    async with running(queue, work):
        await until("all done", lambda: done == 200)
    assert most == 3


async def test_nothing_is_kept_of_keys_that_are_done() -> None:
    done = 0

    async def work(_: Key) -> None:
        nonlocal done
        done += 1

    queue = WorkQueue("test")
    async with running(queue, work):
        before = len(asyncio.all_tasks())
        for number in range(20_000):
            queue.add(("team", str(number)))
        await until("all done", lambda: done == 20_000)
        assert len(queue) == 0
        assert len(asyncio.all_tasks()) <= before + queue._workers


async def test_namespaces_take_turns() -> None:
    worked: list[Key] = []

    async def work(key: Key) -> None:
        if not worked:
            await until("all others wait", lambda: len(queue._queued) == 100)
        worked.append(key)

    queue = WorkQueue("test", workers=1)
    for number in range(100):
        queue.add(("many", str(number)))
    queue.add(("one", "only"))
    async with running(queue, work):
        await until("all done", lambda: len(worked) == 101)
    assert worked.index(("one", "only")) <= 2


async def test_waking_a_key_that_fails_does_not_make_it_fail_faster() -> None:
    tries = 0

    async def work(_: Key) -> None:
        nonlocal tries
        tries += 1
        raise RuntimeError("always")

    queue = WorkQueue("test")
    async with running(queue, work):
        queue.add(("a",))
        await until("the first try", lambda: tries == 1)
        began = asyncio.get_running_loop().time()
        while tries == 1:
            queue.add(("a",))
            await asyncio.sleep(0.001)
        assert asyncio.get_running_loop().time() - began >= FIRST_PAUSE - 0.1


async def test_work_that_never_ends_does_not_keep_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "WORK_SECONDS", 0.01)
    done = asyncio.Event()

    async def work(key: Key) -> None:
        if key == ("stuck",):
            await asyncio.Event().wait()
        done.set()

    queue = WorkQueue("test", workers=1)
    queue.add(("stuck",))
    queue.add(("fine",))
    async with running(queue, work):
        await reached(done)


async def test_every_key_gets_a_pass_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "RESYNC_SECONDS", 0.2)
    worked: list[Key] = []

    async def work(key: Key) -> None:
        worked.append(key)

    queue = WorkQueue("test", lambda: [("a",), ("b",)])
    async with running(queue, work):
        await until("each twice, though nothing happened", lambda: worked.count(("a",)) > 1 < worked.count(("b",)))


async def test_work_that_waits_for_something_cancelled_ends_no_worker() -> None:
    worked: list[str] = []

    async def work(key: Key) -> None:
        if key == ("cancelled",):
            other = asyncio.get_running_loop().create_future()
            other.cancel()
            await other
        worked.append(key[0])

    queue = WorkQueue("test", lambda: [("cancelled",), ("other",)], workers=1)
    async with running(queue, work):
        await until("the other key is worked on", lambda: worked == ["other"])


async def test_key_that_keeps_failing_grows_older_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "FIRST_PAUSE", 0.01)
    failed, healthy, healed = asyncio.Semaphore(0), asyncio.Event(), asyncio.Event()
    ages: list[float] = []

    async def work(key: Key) -> None:
        if key == ("good",):
            return
        if healthy.is_set():
            healed.set()
            return
        ages.append(queue.oldest_seconds)
        failed.release()
        raise RuntimeError("not yet")

    queue = WorkQueue("test")
    async with working(queue, work), asyncio.timeout(DEADLINE):
        assert (queue.oldest_seconds, queue.retries) == (0.0, 0)
        queue.add(("bad",))
        for _ in range(3):
            queue.add(("good",))
            await failed.acquire()
        assert ages == sorted(ages)
        assert ages[0] < ages[-1]
        assert queue.retrying == 1
        healthy.set()
        await healed.wait()
        await until("nothing is due", lambda: queue.oldest_seconds == 0.0)
        assert queue.retrying == 0
        assert queue.retries == len(ages)


async def test_key_counts_as_waiting_until_a_worker_takes_it() -> None:
    go = asyncio.Event()

    async def work(key: Key) -> None:
        await go.wait()

    queue = WorkQueue("test", workers=1)
    async with working(queue, work):
        for name in "abc":
            queue.add((name,))
        await until("two wait", lambda: queue.depth == 2)
        await until("they grow older", lambda: queue.oldest_seconds > 0)
        go.set()
        await until("all are done", lambda: queue.depth == 0 and queue.oldest_seconds == 0)


async def test_key_that_asks_for_a_later_pass_is_not_due_before() -> None:
    passes = asyncio.Semaphore(0)

    async def work(key: Key) -> float:
        passes.release()
        return 3600.0

    queue = WorkQueue("test")
    async with working(queue, work), asyncio.timeout(DEADLINE):
        queue.add(("a",))
        await passes.acquire()
        await until("it is kept", lambda: queue.oldest_seconds == 0 and len(queue) == 1)


async def test_queue_that_stops_has_nothing_due() -> None:
    begun = asyncio.Event()

    async def work(key: Key) -> None:
        begun.set()
        await asyncio.Event().wait()

    queue = WorkQueue("test")
    async with working(queue, work):
        queue.add(("a",))
        await reached(begun)
    assert (queue.oldest_seconds, queue.depth, queue.retrying) == (0.0, 0, 0)

"""Group commits: orders that come together are one write, and what can not be stored has changed nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from patio.adapters.commits import Commits
from patio.adapters.desired import Desired, with_load, with_loaded
from patio.adapters.snapshot import AdapterSnapshot, State
from patio.adapters.store import Store
from patio_testing.sidecar.builders import active, eventually, load_request


class Disk(Store):
    """A store that counts its writes, and hangs or fails when it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.writes = 0
        self.free = threading.Event()
        self.free.set()
        self.error: OSError | None = None

    def save(self, desired: Desired) -> None:
        self.free.wait(10)
        if self.error is not None:
            raise self.error
        self.writes += 1
        super().save(desired)


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Commits, State, Disk]]:
    disk = Disk(path)
    state = State(AdapterSnapshot(Desired()))
    commits = Commits(state, disk)
    task = asyncio.create_task(commits.run())
    try:
        await eventually(lambda: _wrote(disk, 1), "the first state is written")
        yield commits, state, disk
    finally:
        disk.error = None
        disk.free.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _wrote(disk: Disk, number: int) -> bool:
    return disk.writes >= number


def load(name: str) -> Callable[[Desired], tuple[Desired, str]]:
    def change(desired: Desired) -> tuple[Desired, str]:
        after = with_load(desired, load_request(name))
        assert isinstance(after, Desired)
        return after, name

    return change


async def test_hundred_orders_at_once_are_few_writes(tmp_path: Path) -> None:
    async with running(tmp_path / "state.json") as (commits, state, disk):
        names = [f"a{number}" for number in range(100)]
        assert await asyncio.gather(*(commits.order(load(name), lambda _: None) for name in names)) == names
        assert disk.writes <= 4
        assert Store(tmp_path / "state.json").load() == state.snapshot.desired
        assert active(state.snapshot.desired).keys() == set(names)


async def test_order_counts_when_it_is_on_disk(tmp_path: Path) -> None:
    async with running(tmp_path / "state.json") as (commits, state, disk):
        disk.free.clear()
        counted: list[str] = []
        order = asyncio.create_task(commits.order(load("a"), counted.append))
        await asyncio.sleep(0)
        assert (active(state.snapshot.desired), counted, order.done()) == ({}, [], False)
        disk.free.set()
        assert await order == "a"
        assert counted == ["a"]


async def test_order_that_can_not_be_stored_has_no_effect(tmp_path: Path) -> None:
    async with running(tmp_path / "state.json") as (commits, state, disk):
        before, orders_counted = state.snapshot.desired, list[str]()
        disk.error = OSError(28, "No space left on device")
        with pytest.raises(OSError, match="No space left"):
            await commits.order(load("a"), orders_counted.append)
        assert state.snapshot.desired is before
        assert orders_counted == []
        disk.error = None
        assert await commits.order(load("a"), orders_counted.append) == "a"


async def test_hung_disk_holds_up_orders_only(tmp_path: Path) -> None:
    async with running(tmp_path / "state.json") as (commits, state, disk):
        await commits.order(load("a"), lambda _: None)
        disk.free.clear()
        order = asyncio.create_task(commits.order(load("b"), lambda _: None))
        await asyncio.sleep(0)
        commits.learn(lambda desired: with_loaded(desired, active(desired)["a"]))
        assert active(state.snapshot.desired)["a"].served
        assert not order.done()
        disk.free.set()
        await order
        assert active(state.snapshot.desired)["a"].served, "what was learned while the disk was at work counts too"

        async def is_stored() -> bool:
            return Store(tmp_path / "state.json").load() == state.snapshot.desired

        await eventually(is_stored, "and is stored")


async def test_order_that_changes_nothing_needs_no_disk(tmp_path: Path) -> None:
    async with running(tmp_path / "state.json") as (commits, _, disk):
        disk.error = OSError(28, "No space left on device")
        assert await commits.order(lambda desired: (desired, "unknown"), lambda _: None) == "unknown"


async def test_order_is_carried_out_though_its_caller_left(tmp_path: Path) -> None:
    async with running(tmp_path / "state.json") as (commits, state, disk):
        disk.free.clear()
        counted: list[str] = []

        async def caller() -> None:
            await commits.order(load("a"), counted.append)

        calling = asyncio.create_task(caller())
        await asyncio.sleep(0)
        calling.cancel()
        disk.free.set()

        async def is_desired() -> bool:
            return counted == ["a"] and "a" in active(state.snapshot.desired)

        await eventually(is_desired, "the order counts")


async def test_what_was_learned_is_stored_at_the_end(tmp_path: Path) -> None:
    async with running(tmp_path / "state.json") as (commits, state, _):
        await commits.order(load("a"), lambda _: None)
        commits.learn(lambda desired: with_loaded(desired, active(desired)["a"]))
    assert Store(tmp_path / "state.json").load() == state.snapshot.desired


async def test_order_that_breaks_fails_alone(tmp_path: Path) -> None:
    def failing(desired: Desired) -> tuple[Desired, str]:
        raise RuntimeError("odd")

    async with running(tmp_path / "state.json") as (commits, state, _):
        orders = (commits.order(failing, lambda _: None), commits.order(load("b"), lambda _: None))
        failing_order, sound_order = (asyncio.create_task(order) for order in orders)
        with pytest.raises(RuntimeError, match="odd"):
            await failing_order
        assert await sound_order == "b"
        assert set(active(state.snapshot.desired)) == {"b"}


async def test_without_a_writer_orders_write_themselves(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "state.json")
    state = State(AdapterSnapshot(Desired()))
    commits = Commits(state, disk)
    names = [f"a{number}" for number in range(5)]
    assert await asyncio.gather(*(commits.order(load(name), lambda _: None) for name in names)) == names
    assert Store(tmp_path / "state.json").load() == state.snapshot.desired
    assert active(state.snapshot.desired).keys() == set(names)


async def test_orders_that_wait_at_the_end_are_answered(tmp_path: Path) -> None:
    async with running(tmp_path / "state.json") as (commits, state, disk):
        disk.free.clear()
        first = asyncio.create_task(commits.order(load("a"), lambda _: None))
        await asyncio.sleep(0)
        second = asyncio.create_task(commits.order(load("b"), lambda _: None))
        await asyncio.sleep(0)
    assert (await first, await second) == ("a", "b")
    assert Store(tmp_path / "state.json").load() == state.snapshot.desired

"""Permits: never more than the limit, in one process and in several, and none lost with a process."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from patio_gateway.forwarder.permits import OwnPermits, Permits, SharedPermits
from patio_testing.deadline import DEADLINE


@pytest.mark.parametrize("make", [OwnPermits, SharedPermits])
def test_permits_end_at_the_limit_and_come_back(make: Callable[[int], Permits]) -> None:
    permits = make(3)
    taken = [permits.take() for _ in range(4)]
    assert taken[3] is None
    numbers = {permit for permit in taken if permit is not None}
    assert len(numbers) == 3
    permits.give_back(min(numbers))
    assert permits.take() == min(numbers)
    assert permits.take() is None


def _take(permits: SharedPermits, count: int, answer: Connection) -> None:
    answer.send([permits.take() for _ in range(count)])
    answer.recv()


def test_processes_share_the_limit_and_a_kill_loses_none() -> None:
    permits = SharedPermits(3)
    own = permits.take()
    spawn = multiprocessing.get_context("spawn")
    own_end, other_end = spawn.Pipe()
    process = spawn.Process(target=_take, args=(permits, 3, other_end), daemon=True)
    process.start()
    try:
        assert own_end.poll(DEADLINE)
        taken = own_end.recv()
        assert taken[2] is None
        assert len({own, *taken[:2]}) == 3
        assert permits.take() is None
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(DEADLINE)
    assert {permits.take(), permits.take()} == set(taken[:2])
    assert permits.take() is None
    permits.close()

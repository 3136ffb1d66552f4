"""The four checks of debug_mode, each with what fails it."""

from __future__ import annotations

import pytest

from inference_server.cleanup import verify
from inference_server.processes import Identity, Stat

LEADER = 100


def stat(pid: int, *, group: int = 1, state: str = "S", start: int = 1) -> Stat:
    return Stat(Identity(pid, start), "p", state, 1, group, group)


TRACKED = {Identity(101, 1), Identity(102, 1)}


@pytest.mark.parametrize(
    ("everything", "exit_code", "marked", "left"),
    [
        ([stat(1)], 0, [], [(), (), (), ()]),
        ([stat(1)], None, [], [(LEADER,), (), (), ()]),
        ([stat(7, group=LEADER)], 0, [], [(), (7,), (), ()]),
        ([stat(101)], 0, [], [(), (), (101,), ()]),
        ([stat(101, state="Z"), stat(102, start=2)], 0, [], [(), (), (), ()]),
        ([stat(9)], 0, [stat(9)], [(), (), (), (9,)]),
        ([stat(101, group=LEADER)], 0, [stat(101), stat(9, state="Z")], [(), (101,), (101,), (101,)]),
    ],
)
def test_each_check_names_what_is_left(
    everything: list[Stat], exit_code: int | None, marked: list[Stat], left: list[tuple[int, ...]]
) -> None:
    report = verify(everything, leader=LEADER, exit_code=exit_code, tracked=TRACKED, marked=marked)
    assert [check.left for check in report.checks] == left
    assert report.passed is not any(left)
    assert report.survivors == tuple(sorted({pid for pids in left for pid in pids}))

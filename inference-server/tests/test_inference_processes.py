"""Reading /proc: names with brackets, zombies, reused pids, and trees that lost their root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from fake_tree import eventually
from hypothesis import given
from hypothesis import strategies as st

from inference_server.processes import (
    Identity,
    Stat,
    belongs_to,
    descendants,
    is_alive,
    parse_stat,
    send_signal,
    stat_of,
)


def stat(pid: int, parent: int, *, session: int = 0, state: str = "S", start: int = 1) -> Stat:
    return Stat(Identity(pid, start), "p", state, parent, session, session)


@given(st.text("()ab 1Z", min_size=1))
def test_name_of_a_process_may_be_anything(name: str) -> None:
    line = f"7 ({name}) S 3 7 5 " + " ".join(str(number) for number in range(7, 60))
    assert parse_stat(line) == Stat(Identity(7, 22), name, "S", 3, 7, 5)


@pytest.mark.parametrize("line", ["", "7 (x) S 1", "junk"])
def test_line_that_is_no_stat_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        parse_stat(line)


def test_descendants_are_found_without_zombies() -> None:
    tree = [stat(2, 1), stat(3, 2), stat(4, 3, state="Z"), stat(5, 4), stat(9, 8)]
    assert [each.identity.pid for each in descendants(tree, [1])] == [2, 3, 5]


def test_circle_of_parents_ends() -> None:
    assert [each.identity.pid for each in descendants([stat(2, 3), stat(3, 2)], [2])] == [3]


def test_reused_pid_does_not_belong_to_the_tree() -> None:
    tree = [stat(5, 1, start=9), stat(6, 1, session=4), stat(7, 6)]
    found = belongs_to(tree, [Identity(5, 1)], session=4)
    assert {each.identity.pid for each in found} == {6, 7}


def test_zombie_is_dead_and_its_identity_gets_no_signal() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = stat_of(child.pid)
    assert found is not None
    assert is_alive(found.identity)
    other = Identity(child.pid, found.identity.start + 1)
    assert not is_alive(other)
    assert not send_signal(other, signal.SIGKILL)
    assert send_signal(found.identity, signal.SIGKILL)
    eventually(lambda: not is_alive(found.identity), lambda: stat_of(child.pid))
    zombie = stat_of(child.pid)
    assert zombie is not None
    assert zombie.state == "Z"
    child.communicate()
    assert stat_of(child.pid) is None
    assert os.getpid() != child.pid

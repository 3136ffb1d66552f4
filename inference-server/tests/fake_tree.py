"""The processes of the fake engine, as a test sees them: found by a variable that none of them changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from inference_server import processes
from patio_testing.deadline import DEADLINE

FAKE = Path(__file__).with_name("fake_engine.py")
TREE_SIZE = 6


def alive(tree: Path) -> list[processes.Stat]:
    """Return the living processes of the engine that has `FAKE_TREE=tree`. A zombie is dead."""
    mark = f"FAKE_TREE={tree}".encode()
    return [
        stat for stat in processes.all_processes() if stat.alive and processes.has_variable(stat.identity.pid, mark)
    ]


def eventually(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    """Wait for a condition; fail with what was last seen when the deadline passes."""
    until = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < until, what()
        time.sleep(0.005)


def wait_for_tree(tree: Path) -> None:
    """Wait until all six processes have written themselves down."""
    eventually(lambda: tree.exists() and len(tree.read_text().splitlines()) >= TREE_SIZE, lambda: alive(tree))


def wait_until_gone(tree: Path) -> None:
    """Wait until none of them is alive."""
    eventually(lambda: not alive(tree), lambda: alive(tree))

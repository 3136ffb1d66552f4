"""Progress for people: one line per fact, with the seconds since the command began.

Everything that takes longer than a moment gets a ``Report`` passed in and calls it; nothing here or
elsewhere in the package prints by itself, so the tests can run it silently.
"""

import sys
import time
from collections.abc import Callable
from typing import TextIO

Report = Callable[[str], None]


def timed(stream: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic) -> Report:
    """Lines such as ``[  3.2 s] etcd answers``, flushed at once."""
    began = clock()

    def report(line: str) -> None:
        print(f"[{clock() - began:6.1f} s] {line}", file=stream, flush=True)

    return report


def silent(line: str) -> None:
    """Report nothing."""

"""A sidecar that measures how long its event loop is held: `python -m benchmarks.watched_sidecar FILE ARGUMENT...`.

The arguments are the sidecar's. Every turn of the loop is timed from the return of `select` to its next call, on the
wall's clock and on the thread's own, which a busy machine does not slow, from SIGUSR1 on: its start is measured
elsewhere. At the end FILE has the longest of both.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import sys
import time
from pathlib import Path

from patio.app import main


class Watched(selectors.DefaultSelector):
    """A selector that knows how long it was not asked."""

    def __init__(self) -> None:
        super().__init__()
        self._returned: tuple[float, float] | None = None
        self.counting = False
        self.longest = 0.0
        self.longest_cpu = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Note how long the turn took that ends here."""
        if self._returned is not None and self.counting:
            self.longest = max(self.longest, time.perf_counter() - self._returned[0])
            self.longest_cpu = max(self.longest_cpu, time.thread_time() - self._returned[1])
        found = super().select(timeout)
        self._returned = time.perf_counter(), time.thread_time()
        return found


class _Policy(asyncio.DefaultEventLoopPolicy):
    def __init__(self, selector: Watched) -> None:
        super().__init__()
        self._selector = selector

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(self._selector)


if __name__ == "__main__":
    watched = Watched()
    signal.signal(signal.SIGUSR1, lambda number, frame: setattr(watched, "counting", True))
    asyncio.set_event_loop_policy(_Policy(watched))
    status = main(sys.argv[2:], os.environ)
    found = {"longest": watched.longest, "longest_cpu": watched.longest_cpu}
    Path(sys.argv[1]).write_text(json.dumps(found))
    sys.exit(status)

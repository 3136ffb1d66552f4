"""The heartbeat: asks a server at intervals whether it is well, and counts what fails.

It reports; `server` decides what that means. The death of the process is not noticed here but by `supervision`, at
once.
"""

from __future__ import annotations

import threading
from typing import Callable


class Heartbeat:
    """Calls `check` every `interval` seconds on a thread, and passes on each answer with the failures in a row."""

    def __init__(self, interval: float, check: Callable[[], bool], report: Callable[[bool, int], None]) -> None:
        self._interval = interval
        self._check = check
        self._report = report
        self._ended = threading.Event()
        self.failures = 0
        self.thread = threading.Thread(target=self._run, name="inference-server-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """End; wait at most `timeout` seconds for a check that is under way."""
        self._ended.set()
        if self.thread is not threading.current_thread():
            self.thread.join(timeout)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            well = self._check()
            if self._ended.is_set():
                return
            self.failures = 0 if well else self.failures + 1
            self._report(well, self.failures)

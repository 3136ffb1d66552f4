"""Decides whether and when a server that ended by itself is started again. Pure.

`server` asks after each end that nobody asked for. A start that fails for the first time is never repeated: its error
goes to who called `start`.
"""

from __future__ import annotations

from dataclasses import dataclass

MODES = ("never", "on-failure")
LONGEST_PAUSE = 60.0
"""Seconds between two starts, at most."""

STEADY_SECONDS = 600.0
"""What served so long ended for a reason of its own: the count begins again."""


@dataclass(frozen=True)
class RestartPolicy:
    """When to start again."""

    mode: str = "never"
    limit: int = 3
    """How many restarts in a row may fail, or end soon."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError("restart must be one of %s, not %r" % (", ".join(MODES), self.mode))

    def pause(self, restarts: int, exit_code: int | None) -> float | None:
        """Return the seconds until the next start, after so many restarts in a row; None if there is none.

        An engine that ended with code 0 has finished. What was killed, or could not be started again, has failed.
        """
        if self.mode == "never" or exit_code == 0 or restarts >= self.limit:
            return None
        return min(float(2**restarts), LONGEST_PAUSE)


def restarts_after(restarts: int, served_seconds: float) -> int:
    """Return how many restarts in a row count, when a server ends that has served for some time."""
    return 0 if served_seconds >= STEADY_SECONDS else restarts

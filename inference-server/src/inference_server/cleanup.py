"""What `debug_mode` verifies after a stop: four checks, each with the processes that fail it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from inference_server.processes import Identity, Stat


@dataclass(frozen=True)
class Check:
    """One of the four checks."""

    name: str
    left: tuple[int, ...]
    """Pids that should not be there."""

    @property
    def passed(self) -> bool:
        """Whether nothing was left."""
        return not self.left


@dataclass(frozen=True)
class CleanupReport:
    """What was verified after a stop."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    @property
    def survivors(self) -> tuple[int, ...]:
        """The pids that are left, each once."""
        return tuple(sorted({pid for check in self.checks for pid in check.left}))

    @property
    def lines(self) -> list[tuple[bool, str]]:
        """What the log says: whether it is good news, and the line."""
        found = [
            (
                check.passed,
                "%s: %s" % (check.name, "left: %s" % ", ".join(map(str, check.left)) if check.left else "passed"),
            )
            for check in self.checks
        ]
        return [*found, (self.passed, "CLEANUP VERIFICATION %s!" % ("PASSED" if self.passed else "FAILED"))]


def verify(
    everything: Sequence[Stat], *, leader: int, exit_code: int | None, tracked: set[Identity], marked: Sequence[Stat]
) -> CleanupReport:
    """Return what is left of an engine.

    Args:
        everything: all processes that can be seen.
        leader: pid of the engine's first process, which also is its process group and session.
        exit_code: the leader's; None if it has not ended.
        tracked: the processes that were seen while it ran.
        marked: processes anywhere that have the run's variable or descend from a tracked one.
    """
    alive = [stat for stat in everything if stat.alive]
    return CleanupReport(
        (
            Check("Main server process cleanup", (leader,) if exit_code is None else ()),
            Check("Process group cleanup", tuple(stat.identity.pid for stat in alive if stat.group == leader)),
            Check(
                "All tracked child processes cleanup",
                tuple(stat.identity.pid for stat in alive if stat.identity in tracked),
            ),
            Check(
                "System-wide process scanning for orphaned processes",
                tuple(stat.identity.pid for stat in marked if stat.alive),
            ),
        )
    )

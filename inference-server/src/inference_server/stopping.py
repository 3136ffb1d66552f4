"""Decides how a running engine is stopped: which signal to whom, and until when. Pure.

`server` reads the state of the processes, asks `next_step`, sends the signal, and asks again; all of it ends by a
deadline. The leader alone gets the first signal: a vLLM worker that gets SIGTERM raises SystemExit in the middle of a
step, and requests end with an error 500 in place of an abort (vLLM 0.32.0).
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from inference_server.gpu_memory import GpuRelease

GROUP_SECONDS = 5.0
"""How long the rest of the group has after its SIGTERM."""

KILL_SECONDS = 10.0
"""How long to wait for what got SIGKILL. Longer only helps a process that hangs in a driver."""


@dataclass(frozen=True)
class StopPlan:
    """How an engine is stopped."""

    leader_signal: int = signal.SIGTERM
    leader_seconds: float = 30.0
    """How long the leader has to finish."""
    group_seconds: float = GROUP_SECONDS
    kill_seconds: float = KILL_SECONDS

    @property
    def longest(self) -> float:
        """The seconds after which a stop has ended, whatever the engine does."""
        return self.leader_seconds + self.group_seconds + self.kill_seconds


@dataclass(frozen=True)
class Step:
    """One step of a stop, and how long to wait for its effect."""

    name: str
    """`leader`, `group`, `kill`, or `done`, or `give-up` when processes survived SIGKILL."""
    signal: int
    seconds: float
    reason: str


DONE = Step("done", 0, 0.0, "no process is left")


def next_step(plan: StopPlan, last: str | None, *, leader_alive: bool, others_alive: bool) -> Step:
    """Return the step after `last` (None at the beginning), by what is still alive.

    A leader that has ended takes nothing with it: what it left gets the group's signal, then SIGKILL.
    """
    if not leader_alive and not others_alive:
        return DONE
    if last is None and leader_alive and plan.leader_seconds > 0:
        return Step("leader", plan.leader_signal, plan.leader_seconds, "the leader stops its own workers")
    if last in (None, "leader") and plan.group_seconds > 0 and (last == "leader" or plan.leader_seconds > 0):
        return Step("group", signal.SIGTERM, plan.group_seconds, "processes were left after the leader's time")
    if last in (None, "leader", "group"):
        return Step("kill", signal.SIGKILL, plan.kill_seconds, "processes were left after SIGTERM")
    return Step("give-up", 0, 0.0, "processes survived SIGKILL, which only the kernel can keep alive")


@dataclass(frozen=True)
class StopReport:
    """What a stop did.

    Attributes:
        seconds: how long it took.
        signals: (to whom, which signal), in order.
        exit_code: the leader's, negative for a signal.
        survivors: pids that were still alive at the end.
        reason: why the server was stopped, for people.
        gpu_memory: how the memory of the GPUs came back; None if there is no GPU, or it could not be read.
    """

    seconds: float
    signals: tuple[tuple[str, int], ...]
    exit_code: int | None
    survivors: tuple[int, ...]
    reason: str = ""
    gpu_memory: GpuRelease | None = None

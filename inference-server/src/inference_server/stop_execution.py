"""Carries out the stop of an engine: sends the signals that `stopping` decides, and waits for their effect.

`server` calls it with the lifecycle's lock held. Every wait has an end, and the death of the process ends it.
"""

from __future__ import annotations

import logging
import signal

from inference_server import processes, stopping, supervision

LEFTOVER_SECONDS = 1.0
"""How long the workers of a leader that ended have to follow it before they get a signal."""


def carry_out(
    process: supervision.EngineProcess,
    plan: stopping.StopPlan,
    logger: logging.Logger,
    application: processes.Identity | None,
    patience: float,
) -> tuple[tuple[str, int], ...]:
    """End a process and all that it started; return which signals were sent, to whom, in order.

    `application` is the engine below a profiler: it gets the first signal, and `patience` seconds to finish, so that
    the profiler can write its file afterwards.
    """
    process.mark_stopping()
    sent: list[tuple[str, int]] = []
    last: str | None = None
    while True:
        step = stopping.next_step(plan, last, leader_alive=process.poll() is None, others_alive=not process.has_gone())
        if step.name in ("done", "give-up"):
            return tuple(sent)
        last = step.name
        logger.info("stop: %s gets signal %d: %s", step.name, step.signal, step.reason)
        sent.append((step.name, step.signal))
        if step.name == "leader":
            if _signal_leader(process, step, application, patience, sent):
                process.wait_until_gone(LEFTOVER_SECONDS)
            continue
        if step.name == "group":
            process.signal_group(step.signal)
        else:
            process.kill()
        process.wait_until_gone(step.seconds)


def _signal_leader(
    process: supervision.EngineProcess,
    step: stopping.Step,
    application: processes.Identity | None,
    patience: float,
    sent: list[tuple[str, int]],
) -> bool:
    """Let the first process finish; return whether it has."""
    if application is None or not processes.send_signal(application, step.signal):
        process.send_signal(step.signal)
        return process.wait_for_exit(step.seconds)
    patience = min(patience, step.seconds)
    if process.wait_for_exit(patience):
        return True
    if processes.send_signal(application, signal.SIGKILL):
        sent.append(("engine", signal.SIGKILL))
    return process.wait_for_exit(step.seconds - patience)

"""How attempts went so far, and the wait before the next one. Pure.

The rules by which the outcome of a load, an unload or a fetch becomes a pause, a failure or a fresh start. `planner`
reads a `Progress`, `executor` and `observation` write it. Clocks and dice are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from patio.adapters.desired import AdapterSpec
from patio.rejection import Rejection
from patio_protocol.backoff import exponential, with_jitter

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
FIRST_LOSS_PAUSE = 2.0
SLOW_RETRY = 300.0
"""Seconds before a permanently rejected load is retried: something that the sidecar cannot see may have changed."""
PATIENCE = 6
"""Attempts in a row after which a fault that should have passed counts as settled, so that it holds no pod back."""
STEADY = 60.0
"""Seconds in the engine's list after which an adapter that vanished earlier is forgiven."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How it went so far with one name, in one order and one life of the engine."""

    order: int = 0
    life: int = 0
    calls: int = 0
    """Load calls for the wanted weights, over all orders and lives."""
    failures: int = 0
    """In a row."""
    losses: int = 0
    """Times that it vanished from the list of an engine that stayed up, or was back in it after an unload."""
    rejection: Rejection | None = None
    not_before: float = 0.0
    weights: tuple[str, str | None] | None = None
    """Path and revision that `calls` counts."""
    restored: int = 0
    """The failures after the last of which the weights before were tried again."""
    right_since: float | None = None
    """When the engine last did as it should."""


def current(progress: Progress | None, spec: AdapterSpec, life: int) -> Progress:
    """Return the progress that still counts: a new order or a new life of the engine forgives all failures."""
    weights = _weights(spec)
    if progress is None:
        return Progress(spec.order, life, weights=weights)
    if (progress.order, progress.life, progress.weights) == (spec.order, life, weights):
        return progress
    calls = calls_for(progress, spec)
    if progress.order == spec.order and progress.life == life:
        return replace(progress, calls=calls, weights=weights)
    return Progress(spec.order, life, calls=calls, weights=weights)


def calls_for(progress: Progress | None, spec: AdapterSpec) -> int:
    """Return the load calls that were made for the wanted weights."""
    return progress.calls if progress is not None and progress.weights == _weights(spec) else 0


def _weights(spec: AdapterSpec) -> tuple[str, str | None]:
    return spec.path, spec.revision


def after_call(progress: Progress) -> Progress:
    """Count a call that is about to be made."""
    return replace(progress, calls=progress.calls + 1)


def after_success(progress: Progress, now: float) -> Progress:
    """Forget the failures."""
    return replace(progress, failures=0, restored=0, rejection=None, not_before=0.0, right_since=now)


def after_fetch(progress: Progress) -> Progress:
    """Forget the failures of fetching: loading is another matter."""
    return replace(progress, failures=0, restored=0, rejection=None, not_before=0.0)


def after_rejection(progress: Progress, rejection: Rejection, now: float, jitter: float) -> Progress:
    """Wait longer after every failure in a row. `jitter` is between 0 and 1."""
    failures = progress.failures + 1
    pause = SLOW_RETRY if not rejection.retryable else exponential(FIRST_PAUSE, LONGEST_PAUSE, failures)
    return replace(
        progress, failures=failures, rejection=rejection, not_before=now + with_jitter(pause, jitter), right_since=None
    )


def after_restore(progress: Progress) -> Progress:
    """Do not try the weights before again until the wanted ones have failed once more."""
    return replace(progress, restored=progress.failures)


def after_loss(progress: Progress, now: float, jitter: float) -> Progress:
    """Act at once on what vanished or came back once, and ever later on what keeps doing so: engines are not fought."""
    forgiven = progress.right_since is not None and now - progress.right_since > STEADY
    losses = 1 if forgiven else progress.losses + 1
    pause = 0.0 if losses == 1 else exponential(FIRST_LOSS_PAUSE, SLOW_RETRY, losses)
    return replace(progress, losses=losses, not_before=now + with_jitter(pause, jitter), right_since=None)

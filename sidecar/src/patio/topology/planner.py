"""The next step for one worker at one router, from what the router says of it and what is wanted. Pure.

`registrar` polls the router, calls `plan`, acts. A router is believed in what it lists, never in what it accepts:
sglang-router 0.3.2 and smg 1.13.0 answer 202 to workers that they can never use. `after_rejection` is the rule by which
pauses grow. Clocks and dice are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from patio.rejection import Rejection
from patio.topology.registered_worker import Kind, Worker
from patio_protocol.backoff import exponential, with_jitter
from patio_protocol.topology import RegistrationState

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
SLOW_RETRY = 300.0
"""Seconds before a permanently rejected order is retried: the router may be another one by then."""
PATIENCE = 6
"""Faults in a row after which a registration that should have worked is called failed; trying goes on."""
POLL_WHILE_MOVING = 0.3
"""Seconds between polls of a router that is adding or removing the worker."""
POLL_WHILE_STUCK = 5.0
"""The same, when it has been doing so for long."""


class Reason(StrEnum):
    """Why a registration is as it is: CamelCase and stable, shown in reports and metrics."""

    LISTED = "Listed"
    ACCEPTED = "Accepted"
    """The router took the order and has not carried it out."""
    NOT_LISTED = "NotListed"
    REPLACING = "Replacing"
    """The router has it as something else; that goes first."""
    UNHEALTHY = "WorkerUnhealthy"
    DRAINING = "WorkerDraining"
    """The router sends it nothing more and forgets it soon."""
    ENGINE_NOT_READY = "EngineNotReady"
    DRAINED = "Drained"
    """This pod has left permanently, by a drain or at its end."""
    NOT_DESIRED = "NotDesired"
    UNREACHABLE = "RouterUnreachable"
    UNAUTHORIZED = "RouterUnauthorized"
    REJECTED = "RouterRejected"
    ERROR = "RouterError"
    """The router answered with a temporary error."""
    MODE = "RouterModeMismatch"
    """The router lists it and sends its kind of worker nothing."""
    NO_SERVER = "NoLeaseServer"
    """Who answers at the endpoint is a sidecar that keeps no leases."""
    NOT_CONTACTED = "NotContacted"
    NOT_CONFIGURED = "NotConfigured"
    """Of the whole report, when nothing names a router."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A worker, as a router shows it."""

    id: str
    url: str
    kind: str
    bootstrap_port: int | None = None
    healthy: bool = True
    draining: bool = False
    pending: bool = False
    """The router knows of the order and does not list the worker."""
    failed: str | None = None
    """The order ended in an error, in the router's words."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How it went so far with one worker at one router."""

    worker_id: str | None = None
    ordered: float | None = None
    """When the router took the order to add it."""
    listed: bool = False
    """It was listed at the last poll."""
    failures: int = 0
    """In a row."""
    rejection: Rejection | None = None
    not_before: float = 0.0
    checked: str | None = None
    """The id under which the router's mode was checked."""
    mismatch: str | None = None
    """Why the router sends it nothing."""


@dataclass(frozen=True, slots=True)
class Add:
    """Tell the router of the worker."""

    worker: Worker
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Tell the router to forget the worker."""

    worker_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Condition:
    """How a registration stands."""

    state: RegistrationState
    reason: str
    """A `Reason`; from another sidecar, perhaps one of a newer version."""
    message: str = ""
    worker_id: str | None = None

    @property
    def out(self) -> bool:
        """Whether the router sends this worker nothing new."""
        return self.state is RegistrationState.NOT_REGISTERED or self.reason == Reason.DRAINING


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, how things stand, and when to plan again."""

    condition: Condition
    action: Add | Remove | None = None
    requeue_at: float | None = None
    """On the caller's clock; None is the next heartbeat."""


def plan(worker: Worker | None, entry: Entry | None, progress: Progress, now: float) -> Plan:
    """Return the next step. `worker` None: the router must not have it."""
    if entry is not None and entry.draining:
        # smg 1.13.0 keeps a removed worker for its --drain-settle-secs (5) and rejects the same URL until then.
        state = RegistrationState.LEAVING if worker is None else RegistrationState.PENDING
        return Plan(Condition(state, Reason.DRAINING, worker_id=entry.id), requeue_at=now + POLL_WHILE_MOVING)
    if entry is not None and entry.pending:
        return _being_added(worker, entry, progress, now)
    if worker is None:
        return _leave(entry, progress, now)
    if entry is None:
        return _enter(worker, progress, now)
    difference = _difference(worker, entry)
    if difference:
        condition = Condition(RegistrationState.PENDING, Reason.REPLACING, difference, entry.id)
        return _when_allowed(condition, Remove(entry.id, difference), progress, now)
    if progress.mismatch is not None:
        return Plan(Condition(RegistrationState.FAILED, Reason.MODE, progress.mismatch, entry.id))
    if not entry.healthy:
        message = "The router lists the worker, but the router's own health checks of it fail."
        return Plan(Condition(RegistrationState.PENDING, Reason.UNHEALTHY, message, entry.id))
    return Plan(Condition(RegistrationState.REGISTERED, Reason.LISTED, worker_id=entry.id))


def unobserved(rejection: Rejection, progress: Progress, leaving: bool) -> Condition:
    """Return how a registration stands while the router does not show anything."""
    state = RegistrationState.LEAVING if leaving else _state_of(rejection, progress.failures)
    return Condition(state, rejection.reason, rejection.message, progress.worker_id)


def after_rejection(progress: Progress, rejection: Rejection, now: float, jitter: float) -> Progress:
    """Wait longer after every fault in a row. `jitter` is between 0 and 1."""
    pause = SLOW_RETRY if not rejection.retryable else pause_after(progress.failures)
    return replace(
        progress,
        worker_id=None,
        ordered=None,
        failures=progress.failures + 1,
        rejection=rejection,
        not_before=now + with_jitter(pause, jitter),
        listed=False,
    )


def after_poll(progress: Progress, entry: Entry | None) -> Progress:
    """Return the progress once the router has shown the worker, or that it has none."""
    if entry is None:
        # `listed` stays: it separates a worker that the router has lost from one that it never had.
        return replace(progress, worker_id=None, ordered=None)
    if entry.pending:
        return replace(progress, worker_id=entry.id, listed=False)
    is_same = progress.checked == entry.id
    return replace(
        progress,
        worker_id=entry.id,
        ordered=None,
        listed=True,
        failures=0,
        rejection=None,
        checked=entry.id if is_same else None,
        mismatch=progress.mismatch if is_same else None,
    )


def pause_after(failures: int) -> float:
    """Return the seconds to wait after so many failures before this one."""
    return exponential(FIRST_PAUSE, LONGEST_PAUSE, failures + 1)


def moving_pause(age: float) -> float:
    """Return the pause before the next poll of an order that has been pending for so many seconds."""
    return min(POLL_WHILE_STUCK, max(POLL_WHILE_MOVING, age / 4))


def heartbeat(interval: float, jitter: float) -> float:
    """Return the pause before the next reading: shorter than the interval, so that what was lost is back within it."""
    return interval * (0.6 + 0.3 * jitter)


def _being_added(worker: Worker | None, entry: Entry, progress: Progress, now: float) -> Plan:
    """Wait for an addition to end, also of a worker that must go: neither router can remove it before that."""
    message = f"The router accepted the worker, but has not added it yet: it checks {entry.url} first."
    state = RegistrationState.LEAVING if worker is None else RegistrationState.PENDING
    age = 0.0 if progress.ordered is None else now - progress.ordered
    return Plan(Condition(state, Reason.ACCEPTED, message, entry.id), requeue_at=now + moving_pause(age))


def _enter(worker: Worker, progress: Progress, now: float) -> Plan:
    reason = "the router lost the worker" if progress.listed else "the router does not list the worker"
    if progress.rejection is None:
        return Plan(Condition(RegistrationState.PENDING, Reason.NOT_LISTED), Add(worker, reason), now)
    rejection = progress.rejection
    return _when_allowed(
        Condition(_state_of(rejection, progress.failures), rejection.reason, rejection.message),
        Add(worker, reason),
        progress,
        now,
    )


def _leave(entry: Entry | None, progress: Progress, now: float) -> Plan:
    if entry is None:
        return Plan(Condition(RegistrationState.NOT_REGISTERED, Reason.NOT_DESIRED))
    condition = Condition(RegistrationState.LEAVING, Reason.NOT_DESIRED, worker_id=entry.id)
    return _when_allowed(condition, Remove(entry.id, "the worker is no longer desired"), progress, now)


def _when_allowed(condition: Condition, action: Add | Remove, progress: Progress, now: float) -> Plan:
    if now < progress.not_before:
        return Plan(condition, requeue_at=progress.not_before)
    return Plan(condition, action, now)


def _difference(worker: Worker, entry: Entry) -> str:
    if entry.kind != worker.kind:
        return f"the router lists the worker as {entry.kind}, but it is {worker.kind}"
    if worker.kind is Kind.PREFILL and entry.bootstrap_port != worker.bootstrap_port:
        return f"the router lists the bootstrap port {entry.bootstrap_port}, but it is {worker.bootstrap_port}"
    return ""


def _state_of(rejection: Rejection, failures: int) -> RegistrationState:
    return RegistrationState.FAILED if not rejection.retryable or failures >= PATIENCE else RegistrationState.PENDING

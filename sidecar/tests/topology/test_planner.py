"""The next step for a worker at a router: a table of cases, and what holds for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.rejection import Rejection
from patio.topology.planner import (
    LONGEST_PAUSE,
    SLOW_RETRY,
    Add,
    Entry,
    Progress,
    Reason,
    Remove,
    after_poll,
    after_rejection,
    heartbeat,
    plan,
    unobserved,
)
from patio.topology.registered_worker import Kind, Worker
from patio_protocol.topology import RegistrationState

URL = "http://10.0.0.1:8000"
WORKER = Worker(URL)
PREFILL = Worker(URL, Kind.PREFILL, 34000)
LISTED = Entry("id-1", URL, "regular")
PAIRED = Entry("id-1", URL, "prefill", 34000)
REFUSED = Rejection(Reason.REJECTED, "no", retryable=False)
BROKEN = Rejection(Reason.ERROR, "oops")


@pytest.mark.parametrize(
    ("worker", "entry", "progress", "state", "reason", "action"),
    [
        (WORKER, None, Progress(), "Pending", "NotListed", Add),
        (WORKER, None, Progress(listed=True), "Pending", "NotListed", Add),
        (WORKER, LISTED, Progress(), "Registered", "Listed", None),
        (WORKER, replace(LISTED, healthy=False), Progress(), "Pending", "WorkerUnhealthy", None),
        (WORKER, replace(LISTED, pending=True, healthy=False), Progress(), "Pending", "Accepted", None),
        (WORKER, replace(LISTED, draining=True), Progress(), "Pending", "WorkerDraining", None),
        (WORKER, replace(LISTED, kind="prefill"), Progress(), "Pending", "Replacing", Remove),
        (PREFILL, replace(PAIRED, bootstrap_port=1), Progress(), "Pending", "Replacing", Remove),
        (PREFILL, PAIRED, Progress(), "Registered", "Listed", None),
        (PREFILL, PAIRED, Progress(mismatch="x"), "Failed", "RouterModeMismatch", None),
        (WORKER, None, Progress(rejection=BROKEN, failures=1, not_before=20), "Pending", "RouterError", None),
        (WORKER, None, Progress(rejection=BROKEN, failures=1, not_before=9), "Pending", "RouterError", Add),
        (WORKER, None, Progress(rejection=BROKEN, failures=6, not_before=20), "Failed", "RouterError", None),
        (WORKER, None, Progress(rejection=REFUSED, failures=1, not_before=20), "Failed", "RouterRejected", None),
        (None, None, Progress(), "NotRegistered", "NotDesired", None),
        (None, LISTED, Progress(), "Leaving", "NotDesired", Remove),
        (None, LISTED, Progress(rejection=BROKEN, not_before=20), "Leaving", "NotDesired", None),
        (None, replace(LISTED, pending=True), Progress(), "Leaving", "Accepted", None),
        (None, replace(LISTED, draining=True), Progress(), "Leaving", "WorkerDraining", None),
    ],
)  # fmt: skip
def test_next_step(
    worker: Worker | None, entry: Entry | None, progress: Progress, state: str, reason: str, action: type | None
) -> None:
    planned = plan(worker, entry, progress, now=10.0)
    assert (planned.condition.state, planned.condition.reason) == (state, reason)
    assert (type(planned.action) if planned.action else None) is action


def test_lost_worker_is_distinguished_from_one_never_listed() -> None:
    known = after_poll(Progress(), LISTED)
    lost = plan(WORKER, None, after_poll(known, None), 10.0).action
    new = plan(WORKER, None, Progress(), 10.0).action
    assert isinstance(lost, Add)
    assert isinstance(new, Add)
    assert (lost.reason, new.reason) == ("the router lost the worker", "the router does not list the worker")


def test_order_that_takes_long_is_polled_less_often() -> None:
    pending = replace(LISTED, pending=True)
    polls = [plan(WORKER, pending, Progress(ordered=0.0), now).requeue_at for now in (0.1, 4.0, 1000.0)]
    assert [round((poll or 0) - now, 1) for poll, now in zip(polls, (0.1, 4.0, 1000.0), strict=True)] == [0.3, 1.0, 5.0]


def test_being_listed_forgives_every_fault() -> None:
    progress = after_rejection(after_rejection(Progress(), BROKEN, 0.0, 0.5), REFUSED, 1.0, 0.5)
    after = after_poll(progress, LISTED)
    assert (after.failures, after.rejection, after.worker_id, after.listed) == (0, None, "id-1", True)


def test_router_mode_mismatch_lasts_as_long_as_registration() -> None:
    progress = replace(after_poll(Progress(), LISTED), checked="id-1", mismatch="regular")
    assert after_poll(progress, LISTED).mismatch == "regular"
    registered_again = after_poll(progress, replace(LISTED, id="id-2"))
    assert (registered_again.checked, registered_again.mismatch) == (None, None)


def test_silent_router_is_pending_then_failed_never_departed() -> None:
    silent = Rejection(Reason.UNREACHABLE, "nobody there")
    assert unobserved(silent, Progress(failures=1), leaving=False).state is RegistrationState.PENDING
    assert unobserved(silent, Progress(failures=9), leaving=False).state is RegistrationState.FAILED
    leaving = unobserved(silent, Progress(), leaving=True)
    assert leaving.state is RegistrationState.LEAVING
    assert not leaving.out


@given(st.integers(0, 100), st.floats(0, 1), st.booleans())
def test_pauses_grow_to_a_bound_and_are_never_short(failures: int, jitter: float, retryable: bool) -> None:
    rejection = replace(BROKEN, retryable=retryable)
    progress = after_rejection(Progress(failures=failures), rejection, 0.0, jitter)
    later = after_rejection(progress, rejection, 0.0, jitter)
    assert 0.5 <= progress.not_before <= later.not_before <= 1.3 * (LONGEST_PAUSE if retryable else SLOW_RETRY)


@given(st.floats(0.1, 1200), st.floats(0, 1))
def test_reading_comes_before_the_heartbeat_is_over(interval: float, jitter: float) -> None:
    assert 0.6 * interval <= heartbeat(interval, jitter) <= 0.9 * interval + 1e-9


entries = st.none() | st.builds(
    Entry,
    id=st.sampled_from(["id-1", "id-2"]),
    url=st.just(URL),
    kind=st.sampled_from(["regular", "prefill", "decode", "unknown"]),
    bootstrap_port=st.none() | st.just(34000),
    healthy=st.booleans(),
    draining=st.booleans(),
    pending=st.booleans(),
)
progresses = st.builds(
    Progress,
    failures=st.integers(0, 9),
    rejection=st.none() | st.sampled_from([BROKEN, REFUSED]),
    not_before=st.floats(0, 20),
    mismatch=st.none() | st.just("x"),
)


@given(st.sampled_from([None, WORKER, PREFILL]), entries, progresses)
def test_registered_means_listed_healthy_in_the_right_kind(
    worker: Worker | None, entry: Entry | None, progress: Progress
) -> None:
    planned = plan(worker, entry, progress, 10.0)
    if planned.condition.state is RegistrationState.REGISTERED:
        assert worker is not None
        assert entry is not None
        assert entry.healthy
        assert not entry.draining
        assert not entry.pending
        assert entry.kind == worker.kind
    if worker is None:
        assert not isinstance(planned.action, Add)
    if progress.rejection is not None and progress.not_before > 10.0:
        assert planned.action is None
    if planned.action is None and planned.requeue_at is not None:
        assert planned.requeue_at > 10.0

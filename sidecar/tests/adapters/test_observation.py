"""Polls of the engine taken into a snapshot: what changes, and what the log is told."""

from __future__ import annotations

from dataclasses import replace

from patio.adapters.desired import Slot, with_unloaded
from patio.adapters.observation import depart, evict, observe
from patio.adapters.plan import Load
from patio.adapters.progress import after_rejection
from patio.adapters.snapshot import UNOBSERVED, AdapterSnapshot
from patio.engine.base import Capacity, EngineReason, EngineView, RetryableError
from patio.engine.http import NotListeningError, down
from patio.rejection import Rejection
from patio_testing.sidecar.builders import desired, engine, keyed, wanted

A = ("a", Slot.ACTIVE)
LOADED = engine({"a": "/adapters/x"})


def poll(snapshot: AdapterSnapshot, view: EngineView, now: float = 10.0) -> tuple[AdapterSnapshot, list[str]]:
    after, events = observe(snapshot, view, now, lambda: 0.0)
    return after, [event.format % event.args for event in events]


def test_ready_engine_begins_a_life_once() -> None:
    first, events = poll(AdapterSnapshot(desired(), engine="vllm"), engine())
    assert (first.life, events) == (1, ["engine ready engine=vllm life=1"])
    second, events = poll(first, engine())
    assert (second, events) == (first, [])


def test_engine_that_goes_is_reported_with_its_problem() -> None:
    after, events = poll(AdapterSnapshot(desired(), engine(), life=1), down(NotListeningError("http://x")))
    assert after.view.ready is False
    assert events[0].startswith("engine not ready")


def test_lost_adapter_counts_a_loss_and_is_loaded_at_once() -> None:
    after, events = poll(AdapterSnapshot(desired(wanted("a")), LOADED, life=1), engine())
    assert (after.progress[A].losses, after.progress[A].not_before) == (1, 10.0)
    assert events == ["adapter lost adapter=a losses=1"]


def test_adapter_missing_from_a_full_engine_was_evicted() -> None:
    full = AdapterSnapshot(desired(wanted("a")), LOADED, life=1, capacity=Capacity(loaded=1))
    after, events = poll(full, engine({"b": "/b"}))
    rejection = after.progress[A].rejection
    assert rejection is not None
    assert (rejection.reason, rejection.retryable) == (EngineReason.EVICTED, False)
    assert events == ["adapter evicted adapter=a by=another adapter"]


def test_eviction_of_an_undesired_adapter_changes_nothing() -> None:
    snapshot = AdapterSnapshot(desired(), LOADED)
    assert evict(snapshot, "a", "b", 0.0, 0.0) == (snapshot, ())


def test_recovered_adapter_forgets_its_failures() -> None:
    spec = wanted("a")
    snapshot = AdapterSnapshot(desired(spec), engine(), life=1)
    failed = after_rejection(snapshot.progress_of(spec), Rejection("EngineError", "500"), 0.0, 0.0)
    after, _ = poll(replace(snapshot, progress=keyed({"a": failed})), LOADED)
    assert (after.progress[A].rejection, after.progress[A].failures) == (None, 0)


def test_departed_name_is_dropped_unless_an_action_runs() -> None:
    leaving = AdapterSnapshot(desired(leaving=frozenset({"a"})), engine())
    after, events = depart(leaving)
    assert (after.desired.leaving, len(events)) == (frozenset(), 1)
    busy = replace(leaving, running=keyed({"a": Load(wanted("a"), "")}))
    assert depart(busy) == (busy, ())


def test_adapter_loaded_again_after_its_unload_leaves_again() -> None:
    snapshot = AdapterSnapshot(with_unloaded(desired(), "a", "/a"), engine(), life=1)
    after, events = poll(snapshot, engine({"a": "/a"}))
    assert after.desired.leaving == {"a"}
    assert after.progress[A].losses == 1
    assert events == ["unloaded adapter loaded again by the engine adapter=a times=1"]


def test_engine_that_is_gone_brings_nothing_back() -> None:
    snapshot = AdapterSnapshot(with_unloaded(desired(), "a", "/a"), engine(), life=1)
    stopped, _ = poll(snapshot, down(NotListeningError("http://x")))
    assert not stopped.desired.unloaded
    paused, _ = poll(snapshot, down(RetryableError(EngineReason.ENGINE_ERROR, "paused")))
    assert paused.desired.unloaded == {"a": "/a"}


def test_first_poll_finds_nothing_lost() -> None:
    after, events = poll(AdapterSnapshot(desired(wanted("a")), UNOBSERVED), engine())
    assert not after.progress
    assert len(events) == 1

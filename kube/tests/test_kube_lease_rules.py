"""When a Lease may be taken, and what is written into it."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from patio_kube import lease_rules
from patio_testing.operator.builders import NOW

HELD_BY_A = lease_rules.record(lease_rules.held(None, "a", NOW))


def test_held_lease_is_free_if_not_renewed_for_its_duration() -> None:
    seen = lease_rules.see(None, HELD_BY_A, now=100.0)
    assert lease_rules.free_in(seen, "b", 100.0) == lease_rules.DURATION
    assert lease_rules.free_in(lease_rules.see(seen, HELD_BY_A, 105.0), "b", 105.0) == lease_rules.DURATION - 5
    assert lease_rules.free_in(lease_rules.see(seen, HELD_BY_A, 110.0), "b", 110.0) == 0


def test_renewal_counts_from_when_it_is_seen_not_its_timestamp() -> None:
    before = lease_rules.see(None, HELD_BY_A, 100.0)
    by_a_slow_clock = lease_rules.record(lease_rules.held(HELD_BY_A, "a", NOW - timedelta(days=1)))
    assert lease_rules.free_in(lease_rules.see(before, by_a_slow_clock, 109.0), "b", 110.0) == 9.0


def test_released_lease_and_ones_own_are_free_at_once() -> None:
    released = lease_rules.record(lease_rules.released(NOW))
    assert lease_rules.free_in(lease_rules.see(None, released, 0.0), "b", 0.0) == 0
    assert lease_rules.free_in(lease_rules.see(None, HELD_BY_A, 0.0), "a", 0.0) == 0


def test_holder_stops_acting_before_another_may_begin() -> None:
    assert lease_rules.RENEW_DEADLINE < lease_rules.DURATION
    assert lease_rules.RENEW_EVERY * 2 < lease_rules.RENEW_DEADLINE


def test_renewal_keeps_acquire_time_and_takeover_is_counted() -> None:
    later = NOW + timedelta(seconds=2)
    renewed = lease_rules.held(HELD_BY_A, "a", later)
    assert renewed["acquireTime"] == HELD_BY_A.acquired
    assert renewed["renewTime"] > HELD_BY_A.renewed
    assert renewed["leaseTransitions"] == 0
    taken = lease_rules.held(lease_rules.record(renewed), "b", later)
    assert (taken["holderIdentity"], taken["leaseTransitions"]) == ("b", 1)
    assert taken["acquireTime"] == taken["renewTime"]


def test_empty_lease_is_free() -> None:
    assert lease_rules.free_in(lease_rules.see(None, lease_rules.record({}), 0.0), "a", 0.0) == 0


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_two_never_hold_it_at_once(steps: list[tuple[float, bool]]) -> None:
    """A holds and renews, or is out of reach; B looks. When B may take it, A has stopped acting by its own clock."""
    now, renewed = 0.0, 0.0
    record = HELD_BY_A
    seen = lease_rules.see(None, record, now)
    for passed, a_reaches_the_server in steps:
        now += passed
        if a_reaches_the_server and now - renewed < lease_rules.RENEW_DEADLINE:
            renewed = now
            record = lease_rules.record(lease_rules.held(record, "a", NOW + timedelta(seconds=now)))
        seen = lease_rules.see(seen, record, now)
        if lease_rules.free_in(seen, "b", now) == 0:
            assert now - renewed >= lease_rules.RENEW_DEADLINE
            return

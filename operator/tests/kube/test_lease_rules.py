"""When a Lease may be taken, and what is written into it."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from patio_operator.leadership import rules

from builders import NOW

HELD_BY_A = rules.record(rules.held(None, "a", NOW))


def test_a_lease_that_is_held_is_free_when_it_was_not_renewed_for_its_duration() -> None:
    seen = rules.see(None, HELD_BY_A, now=100.0)
    assert rules.free_in(seen, "b", 100.0) == rules.DURATION
    assert rules.free_in(rules.see(seen, HELD_BY_A, 105.0), "b", 105.0) == rules.DURATION - 5
    assert rules.free_in(rules.see(seen, HELD_BY_A, 110.0), "b", 110.0) == 0


def test_a_renewal_counts_from_when_it_is_seen_whatever_the_holders_clock_says() -> None:
    before = rules.see(None, HELD_BY_A, 100.0)
    by_a_slow_clock = rules.record(rules.held(HELD_BY_A, "a", NOW - timedelta(days=1)))
    assert rules.free_in(rules.see(before, by_a_slow_clock, 109.0), "b", 110.0) == 9.0


def test_a_released_lease_and_ones_own_are_free_at_once() -> None:
    released = rules.record(rules.released(NOW))
    assert rules.free_in(rules.see(None, released, 0.0), "b", 0.0) == 0
    assert rules.free_in(rules.see(None, HELD_BY_A, 0.0), "a", 0.0) == 0


def test_the_holders_acting_ends_before_anybody_else_may_begin() -> None:
    assert rules.RENEW_DEADLINE < rules.DURATION
    assert rules.RENEW_EVERY * 2 < rules.RENEW_DEADLINE


def test_a_renewal_keeps_since_when_it_is_held_and_a_takeover_is_counted() -> None:
    later = NOW + timedelta(seconds=2)
    renewed = rules.held(HELD_BY_A, "a", later)
    assert renewed["acquireTime"] == HELD_BY_A.acquired
    assert renewed["renewTime"] > HELD_BY_A.renewed
    assert renewed["leaseTransitions"] == 0
    taken = rules.held(rules.record(renewed), "b", later)
    assert (taken["holderIdentity"], taken["leaseTransitions"]) == ("b", 1)
    assert taken["acquireTime"] == taken["renewTime"]


def test_an_empty_lease_is_free() -> None:
    assert rules.free_in(rules.see(None, rules.record({}), 0.0), "a", 0.0) == 0


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_two_never_hold_it_at_once(steps: list[tuple[float, bool]]) -> None:
    """A holds and renews, or is out of reach; B looks. When B may take it, A has stopped acting by its own clock."""
    now, renewed = 0.0, 0.0
    record = HELD_BY_A
    seen = rules.see(None, record, now)
    for passed, a_reaches_the_server in steps:
        now += passed
        if a_reaches_the_server and now - renewed < rules.RENEW_DEADLINE:
            renewed = now
            record = rules.record(rules.held(record, "a", NOW + timedelta(seconds=now)))
        seen = rules.see(seen, record, now)
        if rules.free_in(seen, "b", now) == 0:
            assert now - renewed >= rules.RENEW_DEADLINE
            return

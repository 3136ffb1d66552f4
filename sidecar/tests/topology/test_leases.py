"""Leases as values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from patio.topology.leases import Leases, dropped, expired, extended, granted, restored, to_save
from patio.topology.registered_worker import Kind, Worker

A, B = Worker("http://10.0.0.1:8000"), Worker("http://10.0.0.2:8000", Kind.PREFILL, 34000, api_key="sekret")


def test_lease_runs_out_unless_it_is_renewed() -> None:
    leases = granted(granted(Leases(), "a", A, 30, now=0), "b", B, 30, now=0)
    leases = granted(leases, "b", B, 30, now=20)
    remaining, expired_leases = expired(leases, now=30)
    assert [lease.id for lease in expired_leases] == ["a"]
    assert remaining.desired == {B.url: B}
    assert expired(remaining, now=49)[1] == ()


def test_address_belongs_to_the_last_lease_for_it() -> None:
    leases = granted(granted(Leases(), "old", A, 30, now=0), "new", A, 30, now=5)
    assert set(leases.by_id) == {"new"}


def test_pod_that_moved_leaves_its_old_address() -> None:
    leases = granted(granted(Leases(), "a", A, 30, now=0), "a", B, 30, now=5)
    assert set(leases.desired) == {B.url}


def test_lease_from_before_restart_is_kept_until_its_pod_renews() -> None:
    before = granted(granted(Leases(), "a", A, 30, now=0), "b", B, 60, now=0)
    assert "sekret" not in str(to_save(before))
    leases = restored(to_save(before), now=100)
    assert (leases.desired, leases.held) == ({}, {A.url, B.url})
    leases = granted(leases, "b", B, 60, now=110)
    assert (set(leases.desired), leases.held) == ({B.url}, {A.url})
    assert [lease.id for lease in expired(leases, now=131)[1]] == ["a"]


def test_time_that_the_server_slept_through_ends_no_lease() -> None:
    leases = extended(granted(Leases(), "a", A, 30, now=0), 100)
    assert expired(leases, now=129)[1] == ()
    assert leases.next_end == 130
    assert dropped(leases, "a").next_end is None


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([A, B]), st.floats(1, 60), st.floats(0, 100)), max_size=12
    )
)
def test_no_address_is_leased_twice_or_both_desired_and_held(
    grants: list[tuple[str, Worker, float, float]],
) -> None:
    leases = restored({"x": (A.url, 10.0)}, now=0)
    for lease_id, worker, seconds, now in grants:
        leases = granted(leases, lease_id, worker, seconds, now)
        urls = [lease.url for lease in leases.by_id.values()]
        assert len(urls) == len(set(urls))
        assert not leases.held & leases.desired.keys()
        remaining, expired_leases = expired(leases, now)
        assert {*remaining.by_id, *(lease.id for lease in expired_leases)} == set(leases.by_id)

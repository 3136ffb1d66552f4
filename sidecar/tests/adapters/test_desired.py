"""Orders: what they change, whose they are, and what a restart remembers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.adapters.desired import (
    Desired,
    Outcome,
    conflict,
    with_load,
    with_loaded,
    with_removed,
    with_required,
    with_unload,
)
from patio.adapters.store import Store
from patio.rejection import Rejection
from patio_testing.sidecar.builders import active, load_request

OWNER = "LoraAdapter/team-a/sql"


def loaded(desired: Desired, name: str, **fields: str) -> Desired:
    after = with_load(desired, load_request(name, **fields))
    assert isinstance(after, Desired)
    return after


def test_owned_order_never_takes_over_manually_loaded_adapter() -> None:
    manual = loaded(Desired(), "sql")
    assert with_load(manual, load_request("sql", owner=OWNER)) == conflict("sql", None)
    assert "manually" in conflict("sql", None).message


def test_owned_order_never_removes_manually_loaded_adapter() -> None:
    manual = loaded(Desired(), "sql")
    assert with_unload(manual, "sql", OWNER, present=True) == (manual, Outcome.KEPT)


def test_same_name_for_another_owner_conflict_names_holder() -> None:
    rejection = with_load(loaded(Desired(), "sql", owner=OWNER), load_request("sql", owner="LoraAdapter/b/sql"))
    assert isinstance(rejection, Rejection)
    assert OWNER in rejection.message


def test_owner_and_a_caller_without_owner_may_unload() -> None:
    owned = loaded(Desired(), "sql", owner=OWNER)
    for owner in (OWNER, None):
        after, outcome = with_unload(owned, "sql", owner, present=True)
        assert outcome is Outcome.LEAVING
        assert not active(after)
        assert after.leaving == {"sql"}


def test_adapter_of_the_engine_itself_is_unloaded_manually_only() -> None:
    assert with_unload(Desired(), "sql", OWNER, present=True)[1] is Outcome.KEPT
    assert with_unload(Desired(), "sql", None, present=True)[1] is Outcome.LEAVING
    assert with_unload(Desired(), "sql", None, present=False)[1] is Outcome.UNKNOWN


def test_load_after_an_unload_is_desired_again() -> None:
    unloaded, _ = with_unload(loaded(Desired(), "sql"), "sql", None, present=True)
    reordered = loaded(unloaded, "sql")
    assert reordered.leaving == frozenset()
    assert not active(reordered)["sql"].served


def test_repeated_order_counts_as_new_and_keeps_loaded_weights() -> None:
    before = loaded(Desired(), "sql", revision="1")
    before = with_loaded(before, active(before)["sql"])
    after = loaded(before, "sql", revision="1")
    assert active(after)["sql"].order > active(before)["sql"].order
    assert active(after)["sql"].held == active(before)["sql"].held
    assert active(after)["sql"].served


def test_unloaded_required_adapter_stays_unloaded_over_restart() -> None:
    required = [load_request("sql", owner=OWNER, revision="1")]
    start = with_required(Desired(), required)
    assert active(start)["sql"].required
    unloaded, _ = with_unload(start, "sql", OWNER, present=True)
    assert not active(with_required(with_removed(unloaded, ["sql"]), required))


def test_new_value_of_the_variable_is_taken_in() -> None:
    start = with_required(Desired(), [load_request("sql", owner=OWNER, revision="1")])
    unloaded, _ = with_unload(start, "sql", OWNER, present=True)
    restarted = with_required(unloaded, [load_request("sql", owner=OWNER, revision="2")])
    assert active(restarted)["sql"].revision == "2"
    assert restarted.leaving == frozenset()


def test_later_order_for_required_adapter_survives_restart() -> None:
    required = [load_request("sql", owner=OWNER, revision="1")]
    reordered = loaded(with_required(Desired(), required), "sql", owner=OWNER, revision="2")
    restarted = with_required(reordered, required)
    assert active(restarted)["sql"].revision == "2"
    assert active(restarted)["sql"].required


def test_weights_accepted_after_withdrawal_stay_undesired() -> None:
    before = loaded(Desired(), "sql")
    unloaded, _ = with_unload(before, "sql", None, present=True)
    assert with_loaded(unloaded, active(before)["sql"]) == unloaded


names = st.sampled_from(["a", "b", "c"])
owners = st.sampled_from([None, "x", "y"])
orders = st.lists(
    st.tuples(st.sampled_from(["load", "unload"]), names, owners, st.booleans()),
    max_size=20,
)


@given(orders)
def test_any_orders_keep_a_name_desired_or_leaving_never_both(
    orders: list[tuple[str, str, str | None, bool]],
) -> None:
    now = Desired()
    for kind, name, owner, present in orders:
        if kind == "load":
            after = with_load(now, load_request(name, owner=owner))
            if isinstance(after, Rejection):
                assert active(now)[name].owner != owner
            else:
                now = after
                assert active(now)[name].owner == owner
        else:
            before = now
            now, outcome = with_unload(now, name, owner, present)
            if outcome is not Outcome.LEAVING:
                assert now == before
            if owner is not None and name in active(before) and active(before)[name].owner != owner:
                assert name in active(now)
        assert not active(now).keys() & now.leaving


@given(orders)
def test_what_is_stored_is_what_is_read(orders: list[tuple[str, str, str | None, bool]]) -> None:
    import tempfile

    now = with_required(Desired(), [load_request("r", revision="9")])
    for kind, name, owner, present in orders:
        if kind == "load":
            after = with_load(now, load_request(name, owner=owner))
            now = after if isinstance(after, Desired) else now
            if name in active(now):
                now = with_loaded(now, active(now)[name])
        else:
            now, _ = with_unload(now, name, owner, present)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "state.json")
        store.save(now)
        assert store.load() == now


def test_missing_state_file_is_a_fresh_pod(tmp_path: Path) -> None:
    assert Store(tmp_path / "state.json").load() == Desired()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 99, "desired": {}}', "\x00\xff"])
def test_broken_state_file_is_set_aside_with_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    file = tmp_path / "state.json"
    file.write_text(content, encoding="latin-1")
    assert Store(file).load() == Desired()
    assert "renamed" in caplog.text
    assert (tmp_path / "state.json.broken").read_text(encoding="latin-1") == content
    Store(file).save(Desired())
    assert Store(file).load() == Desired()


def test_place_that_can_not_be_written_keeps_nothing() -> None:
    store = Store(None)
    store.save(loaded(Desired(), "sql"))
    assert store.load() == Desired()


def test_state_file_that_can_not_be_read_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "state.json"
    file.mkdir()
    store = Store(file)
    assert store.load() == Desired()
    assert "renamed" in caplog.text
    assert (tmp_path / "state.json.broken").is_dir()
    store.save(loaded(Desired(), "sql"))
    assert Store(file).load() == loaded(Desired(), "sql")


def test_state_file_that_can_not_be_set_aside_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, broken_file = tmp_path / "state.json", tmp_path / "state.json.broken"
    file.mkdir()
    broken_file.write_text("of an earlier time")
    store = Store(file)
    assert store.load() == Desired()
    assert "not renamed" in caplog.text
    store.save(loaded(Desired(), "sql"))
    assert (file.is_dir(), broken_file.read_text()) == (True, "of an earlier time")

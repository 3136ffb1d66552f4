"""Files fetched ahead, and credentials that come later: orders and plans. Pure: no download is made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.adapters.desired import (
    Desired,
    LoadedWeights,
    Outcome,
    Slot,
    conflict,
    folders_in_use,
    sources_at_hand,
    with_fetched,
    with_load,
    with_loaded,
    with_required,
    with_unload,
)
from patio.adapters.plan import Action, Fetch, Load, Reload
from patio.adapters.planner import plan, readiness_blockers
from patio.adapters.progress import PATIENCE, SLOW_RETRY, after_rejection, current
from patio.adapters.snapshot import AdapterSnapshot
from patio.adapters.store import Store
from patio.engine.http import NotListeningError, down
from patio.rejection import Rejection
from patio_protocol.adapters import AdapterReport, AdapterState, LoadRequest, PreparedReport, PreparedState
from patio_testing.sidecar.builders import active, engine, keyed, staged

OWNER = "LoraAdapter/team-a/sql"
OLD, NEW = "s3://bucket/sql-1", "s3://bucket/sql-2"
KEYS = json.dumps({"access_key": "AK", "secret_key": "sekret"})
SECRET = {"secret_key": "sekret"}
DOWN = down(NotListeningError("http://localhost:8000"))


def order(source: str = NEW, revision: str = "2", **fields: Any) -> LoadRequest:
    return LoadRequest.model_validate({"lora_name": "sql", "source": source, "revision": revision, **fields})


def staging_order(**fields: Any) -> LoadRequest:
    return order(prepare=True, **fields)


def ordered(before: Desired, *requests: LoadRequest) -> Desired:
    for request in requests:
        after = with_load(before, request)
        assert isinstance(after, Desired), after
        before = after
    return before


def serving(**fields: Any) -> Desired:
    """Return a pod that has the adapter in its first revision."""
    desired = ordered(Desired(), order(OLD, "1", **fields))
    desired = with_fetched(desired, active(desired)["sql"], "/fetched/1")
    return replace(
        desired,
        specs=keyed({"sql": replace(active(desired)["sql"], served=True, held=LoadedWeights("/fetched/1", "1"))}),
    )


def with_staged_files(desired: Desired) -> Desired:
    return with_fetched(desired, staged(desired)["sql"], "/fetched/2")


LISTED = engine({"sql": "/fetched/1"})


def only_report(snapshot: AdapterSnapshot) -> AdapterReport:
    (report,) = plan(snapshot).reports
    return report


def prepared(snapshot: AdapterSnapshot) -> PreparedReport:
    report = only_report(snapshot).prepared
    assert report is not None
    return report


def is_staging(action: Action) -> bool:
    return isinstance(action, Fetch) and action.slot is Slot.STAGED


def test_staging_order_leaves_desired_and_loaded_adapter_alone() -> None:
    before = serving()
    after = ordered(before, staging_order())
    assert (active(after), after.leaving) == (active(before), before.leaving)
    (action,) = plan(AdapterSnapshot(after, LISTED)).actions
    assert is_staging(action)
    report = only_report(AdapterSnapshot(after, LISTED))
    assert (report.state, report.revision, report.held_revision) == (AdapterState.LOADED, "1", "1")
    assert not readiness_blockers(AdapterSnapshot(after, LISTED), (report,))


def test_staged_files_download_whatever_engine_does() -> None:
    desired = ordered(serving(), staging_order(credentials_revision="7"))
    for view in (LISTED, DOWN):
        busy = AdapterSnapshot(
            desired, view, running=keyed({"sql": Fetch(staged(desired)["sql"], "why", Slot.STAGED)}, Slot.STAGED)
        )
        assert prepared(busy).state is PreparedState.DOWNLOADING
        assert not [action for action in plan(busy).actions if is_staging(action)]
        report = prepared(AdapterSnapshot(with_staged_files(desired), view))
        assert (report.state, report.reason, report.revision, report.credentials_revision) == (
            "Prepared",
            "Prepared",
            "2",
            "7",
        )


def test_order_without_prepare_takes_staged_folder_at_once() -> None:
    switched = ordered(with_staged_files(ordered(serving(), staging_order())), order())
    assert staged(switched) == {}
    (action,) = plan(AdapterSnapshot(switched, LISTED)).actions
    assert isinstance(action, Reload)
    assert action.spec.path == "/fetched/2"
    assert action.spec.held == LoadedWeights("/fetched/1", "1")


def test_order_of_partly_staged_files_goes_on_fetching() -> None:
    switched = ordered(ordered(serving(), staging_order()), order())
    assert staged(switched) == {}
    assert isinstance(plan(AdapterSnapshot(switched, LISTED)).actions[0], Fetch)


@pytest.mark.parametrize("other", [order(OLD, "1"), order(NEW, "3"), order("s3://bucket/sql-3", "2")])
def test_order_for_something_else_leaves_what_is_prepared(other: LoadRequest) -> None:
    desired = with_staged_files(ordered(serving(), staging_order()))
    assert staged(ordered(desired, other)) == staged(desired)


@pytest.mark.parametrize("other", [staging_order(revision="3"), staging_order(source="s3://bucket/sql-3")])
def test_staging_order_for_other_files_drops_staged_ones(other: LoadRequest) -> None:
    desired = ordered(with_staged_files(ordered(serving(), staging_order())), other)
    assert staged(desired)["sql"].path == ""
    assert "/fetched/2" not in folders_in_use(desired, [])


def test_order_back_to_loaded_weights_asks_no_source() -> None:
    first = serving()
    loaded = with_loaded(first, active(first)["sql"])
    switched = ordered(loaded, order())
    switched_back = ordered(switched, order(OLD, "1"))
    assert active(switched_back)["sql"].path == "/fetched/1"
    assert (
        plan(AdapterSnapshot(switched_back, LISTED)).actions,
        only_report(AdapterSnapshot(switched_back, LISTED)).state,
    ) == (
        (),
        AdapterState.LOADED,
    )
    assert active(ordered(switched, order(OLD, "3")))["sql"].path == ""


def test_order_to_prepare_again_keeps_staged_files() -> None:
    desired = ordered(with_staged_files(ordered(serving(), staging_order())), staging_order())
    assert staged(desired)["sql"].path == "/fetched/2"


def test_what_is_desired_and_fetched_is_prepared_at_once() -> None:
    desired = ordered(serving(), staging_order(source=OLD, revision="1"))
    assert prepared(AdapterSnapshot(desired, LISTED)).state is PreparedState.PREPARED


def test_prepared_files_are_in_use_and_at_hand() -> None:
    desired = with_staged_files(ordered(serving(), staging_order()))
    assert folders_in_use(desired, []) == {"/fetched/1", "/fetched/2"}
    assert sources_at_hand(desired) == {OLD, NEW}


def test_unload_drops_what_is_prepared() -> None:
    desired = with_staged_files(ordered(serving(owner=OWNER), staging_order(owner=OWNER)))
    for owner in (OWNER, None):
        after, outcome = with_unload(desired, "sql", owner, present=True)
        assert (outcome, dict(staged(after))) == (Outcome.LEAVING, {})
        assert after.leaving == {"sql"}
    kept, outcome = with_unload(desired, "sql", "LoraAdapter/team-b/sql", present=True)
    assert (kept, outcome) == (desired, Outcome.KEPT)


def test_unload_of_staged_files_touches_no_adapter() -> None:
    desired = with_staged_files(ordered(Desired(), staging_order(owner=OWNER)))
    after, outcome = with_unload(desired, "sql", OWNER, present=True)
    assert (outcome, after.leaving, dict(staged(after))) == (Outcome.LEAVING, frozenset(), {})


def test_name_of_another_owner_is_neither_staged_nor_taken() -> None:
    assert with_load(serving(owner=OWNER), staging_order()) == conflict("sql", OWNER)
    assert with_load(serving(), staging_order(owner=OWNER)) == conflict("sql", None)
    assert with_load(ordered(Desired(), staging_order(owner=OWNER)), order()) == conflict("sql", OWNER)


def test_undesired_adapter_is_staged_and_holds_no_pod_back() -> None:
    desired = ordered(Desired(), staging_order(owner=OWNER))
    for now, reason in ((desired, "Preparing"), (with_staged_files(desired), "Prepared")):
        snapshot = AdapterSnapshot(now, engine())
        report = only_report(snapshot)
        assert (report.state, report.reason, report.owner, report.source) == ("Pending", reason, OWNER, NEW)
        assert (report.revision, report.lora_path, report.required) == (None, None, False)
        assert not readiness_blockers(snapshot, (report,))
        assert not [action for action in plan(snapshot).actions if not is_staging(action)]


def test_missing_source_fails_the_staged_slot_only() -> None:
    desired = ordered(serving(), staging_order())
    progress = current(None, staged(desired)["sql"], 0)
    failed = after_rejection(progress, Rejection("SourceNotFound", "404", retryable=False), 0.0, 0.0)
    snapshot = AdapterSnapshot(desired, LISTED, progress=keyed({"sql": failed}, Slot.STAGED), now=SLOW_RETRY - 1)
    report = prepared(snapshot)
    assert (report.state, report.reason, report.message, report.retryable) == ("Failed", "SourceNotFound", "404", False)
    assert only_report(snapshot).state is AdapterState.LOADED
    assert plan(snapshot).actions == ()
    assert plan(snapshot).requeue_at == SLOW_RETRY
    assert is_staging(plan(replace(snapshot, now=SLOW_RETRY)).actions[0])
    reordered = ordered(desired, staging_order())
    assert is_staging(plan(replace(snapshot, desired=reordered)).actions[0]), "an order says: again"


def test_transient_rejection_of_staged_files_is_pending_for_long() -> None:
    desired = ordered(serving(), staging_order())
    progress = current(None, staged(desired)["sql"], 0)
    for failures in range(1, PATIENCE + 1):
        progress = after_rejection(progress, Rejection("SourceUnreachable", "no route", retryable=True), 0.0, 0.0)
        report = prepared(AdapterSnapshot(desired, LISTED, progress=keyed({"sql": progress}, Slot.STAGED)))
        assert report.state is (PreparedState.FAILED if failures >= PATIENCE else PreparedState.PENDING)
        assert report.retryable


def test_new_engine_life_does_not_ask_a_source_again() -> None:
    desired = ordered(serving(), staging_order())
    failed = after_rejection(
        current(None, staged(desired)["sql"], 0), Rejection("SourceNotFound", "404", retryable=False), 0.0, 0.0
    )
    snapshot = AdapterSnapshot(desired, LISTED, life=7, progress=keyed({"sql": failed}, Slot.STAGED), now=1.0)
    assert not [action for action in plan(snapshot).actions if is_staging(action)]


def test_staged_order_survives_restart_without_secret_in_file(tmp_path: Path) -> None:
    desired = with_staged_files(ordered(serving(), staging_order(config=KEYS, credentials_revision="7")))
    Store(tmp_path / "state.json").save(desired)
    assert Store(tmp_path / "state.json").load() == desired
    assert "sekret" not in (tmp_path / "state.json").read_text()
    assert prepared(AdapterSnapshot(desired, LISTED)).state is PreparedState.PREPARED, (
        "files that are there need no secret"
    )


@pytest.mark.parametrize(
    ("owner", "state", "required"), [(OWNER, "Pending", True), (OWNER, "Pending", False), (None, "Failed", True)]
)
def test_restart_awaits_credentials_from_an_owner_only(owner: str | None, state: str, required: bool) -> None:
    request = order(owner=owner, config=KEYS, credentials_revision="7")
    desired = with_required(Desired(), [request]) if required else ordered(Desired(), request)
    snapshot = AdapterSnapshot(desired, engine())
    report = only_report(snapshot)
    assert (report.state, report.reason, report.retryable) == (state, "CredentialsMissing", True)
    assert report.credentials_revision == "7"
    assert "access_key, secret_key" in report.message
    assert plan(snapshot).actions == ()
    assert bool(readiness_blockers(snapshot, (report,))) is (required and owner is not None)
    assert isinstance(plan(replace(snapshot, credentials=keyed({"sql": SECRET}))).actions[0], Fetch)
    on_disk = with_fetched(desired, active(desired)["sql"], "/fetched/2")
    assert isinstance(plan(AdapterSnapshot(on_disk, engine())).actions[0], Load)


@pytest.mark.parametrize("owner", [OWNER, None])
def test_later_credentials_are_awaited_and_then_used(owner: str | None) -> None:
    awaited = with_required(Desired(), [order(owner=owner, expects_credentials=True)])
    snapshot = AdapterSnapshot(awaited, engine())
    report = only_report(snapshot)
    assert (report.state, report.reason, report.retryable) == ("Pending", "CredentialsMissing", True)
    assert plan(snapshot).actions == ()
    assert readiness_blockers(snapshot, (report,)), "a pod that must have it waits"
    ordered_again = ordered(awaited, order(owner=owner, config=KEYS, credentials_revision="1"))
    assert active(ordered_again)["sql"].required
    assert isinstance(
        plan(AdapterSnapshot(ordered_again, engine(), credentials=keyed({"sql": SECRET}))).actions[0], Fetch
    )
    assert with_required(ordered_again, [order(owner=owner, expects_credentials=True)]) == ordered_again, (
        "a restart awaits nothing anew"
    )


def test_credentials_of_staged_files_are_their_own() -> None:
    desired = ordered(serving(), staging_order(config=KEYS))
    snapshot = AdapterSnapshot(desired, LISTED, credentials=keyed({"sql": SECRET}))
    report = prepared(snapshot)
    assert (report.state, report.reason) == ("Failed", "CredentialsMissing")
    assert plan(snapshot).actions == ()
    assert is_staging(plan(replace(snapshot, credentials=keyed({"sql": SECRET}, Slot.STAGED))).actions[0])
    owned = ordered(serving(owner=OWNER), staging_order(config=KEYS, owner=OWNER))
    assert prepared(AdapterSnapshot(owned, LISTED)).state is PreparedState.PENDING


steps = st.lists(
    st.tuples(
        st.sampled_from(["load", "prepare", "unload", "fetched"]),
        st.sampled_from([OLD, NEW]),
        st.sampled_from(["1", "2"]),
        st.sampled_from([None, OWNER]),
    ),
    max_size=25,
)


@given(steps)
def test_any_staging_orders_never_change_what_is_desired(
    steps: list[tuple[str, str, str, str | None]],
) -> None:
    now = Desired()
    for kind, source, revision, owner in steps:
        before = now
        if kind in ("load", "prepare"):
            after = with_load(now, order(source, revision, owner=owner, prepare=kind == "prepare"))
            now = before if isinstance(after, Rejection) else after
            if kind == "prepare":
                assert (active(now), now.leaving, now.unloaded) == (active(before), before.leaving, before.unloaded)
            elif now is not before:
                staged_spec = staged(before).get("sql")
                active_spec = active(now)["sql"]
                if staged_spec is not None and (staged_spec.origin, staged_spec.revision) == (
                    active_spec.origin,
                    active_spec.revision,
                ):
                    assert active_spec.path == staged_spec.path or active_spec.path == active(before)["sql"].path
                    assert not staged(now)
        elif kind == "unload":
            now, outcome = with_unload(now, "sql", owner, present=False)
            if outcome is Outcome.LEAVING:
                assert not active(now)
            if "sql" in staged(before):
                is_foreign = owner is not None and staged(before)["sql"].owner != owner
                assert ("sql" in staged(now)) is is_foreign
        else:
            for spec in (active(now).get("sql"), staged(now).get("sql")):
                if spec is not None:
                    now = with_fetched(now, spec, f"/fetched/{spec.revision}")
        for spec in (*active(now).values(), *staged(now).values()):
            assert not spec.path or spec.path in folders_in_use(now, [])
        owners = {spec.owner for spec in (*active(now).values(), *staged(now).values())}
        assert len(owners) <= 1, "one name has one owner"

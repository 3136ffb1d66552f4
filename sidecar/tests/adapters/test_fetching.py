"""Orders and plans of adapters whose files are fetched. Pure: no download is made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from patio.adapters.desired import (
    AdapterSpec,
    Desired,
    LoadedWeights,
    folders_in_use,
    with_fetched,
    with_load,
    with_required,
)
from patio.adapters.fetching import Origin, config_of, credentials_of, files_of
from patio.adapters.plan import Fetch, Load, Reload
from patio.adapters.planner import plan, readiness_blockers
from patio.adapters.progress import SLOW_RETRY, Progress, after_fetch, after_rejection, current
from patio.adapters.snapshot import AdapterSnapshot
from patio.adapters.store import Store
from patio.engine.http import NotListeningError, down
from patio.rejection import Rejection
from patio_protocol.adapters import AdapterReport, AdapterState, LoadRequest
from patio_protocol.sources import parse_source
from patio_testing.sidecar.builders import active, desired, engine, keyed

SOURCE = "s3://bucket/sql"
ORIGIN = Origin(SOURCE)
DOWN = down(NotListeningError("http://localhost:8000"))
SECRET = {"secret_key": "sekret"}
KEYS = json.dumps({"access_key": "AK", "secret_key": "sekret", "region": "eu-west-1"})


def order(**fields: str) -> LoadRequest:
    return LoadRequest.model_validate({"lora_name": "sql", "source": SOURCE, **fields})


def ordered(before: Desired, request: LoadRequest) -> Desired:
    after = with_load(before, request)
    assert isinstance(after, Desired)
    return after


def fetching(**fields: object) -> AdapterSpec:
    return replace(AdapterSpec("sql", "", origin=ORIGIN), **fields)  # type: ignore[arg-type]


def only_report(snapshot: AdapterSnapshot) -> AdapterReport:
    (report,) = plan(snapshot).reports
    return report


def test_order_with_source_is_fetched_whatever_engine_does() -> None:
    for view in (DOWN, engine()):
        planned = plan(AdapterSnapshot(desired(fetching()), view))
        (action,) = planned.actions
        assert isinstance(action, Fetch)
        assert SOURCE in action.reason


def test_fetched_adapter_downloads_then_loads_from_its_folder() -> None:
    spec = fetching()
    busy = AdapterSnapshot(desired(spec), DOWN, running=keyed({"sql": Fetch(spec, "why")}))
    assert plan(busy).actions == ()
    assert (only_report(busy).state, only_report(busy).lora_path, only_report(busy).source) == (
        AdapterState.DOWNLOADING,
        None,
        SOURCE,
    )
    fetched = with_fetched(busy.desired, spec, "/fetched/k/r")
    (action,) = plan(AdapterSnapshot(fetched, engine())).actions
    assert isinstance(action, Load)
    assert action.spec.path == "/fetched/k/r"
    assert only_report(AdapterSnapshot(fetched, DOWN)).state is AdapterState.PENDING


def test_old_weights_answer_until_new_ones_are_fetched() -> None:
    first = with_fetched(ordered(Desired(), order(revision="1")), fetching(revision="1"), "/fetched/k/1")
    spec = replace(active(first)["sql"], served=True, held=LoadedWeights("/fetched/k/1", "1"))
    second = ordered(desired(spec), order(revision="2"))
    serving = engine({"sql": "/fetched/k/1"})
    snapshot = AdapterSnapshot(second, serving)
    (action,) = plan(snapshot).actions
    assert isinstance(action, Fetch)
    assert not readiness_blockers(snapshot, plan(snapshot).reports), "what goes on answering holds nothing back"
    assert "/fetched/k/1" in folders_in_use(second, [])
    fetched = with_fetched(second, active(second)["sql"], "/fetched/k/2")
    (action,) = plan(AdapterSnapshot(fetched, serving)).actions
    assert isinstance(action, Reload)
    assert folders_in_use(fetched, serving.adapters.values() if serving.adapters else ()) == {
        "/fetched/k/1",
        "/fetched/k/2",
    }


def test_failed_fetch_is_retried_as_a_failed_load_is() -> None:
    spec = fetching()
    progress = current(None, spec, 0)
    transient = after_rejection(progress, Rejection("SourceUnreachable", "no route", retryable=True), 0.0, 0.0)
    snapshot = AdapterSnapshot(desired(spec), engine(), progress=keyed({"sql": transient}))
    assert (only_report(snapshot).state, only_report(snapshot).reason, plan(snapshot).actions) == (
        AdapterState.PENDING,
        "SourceUnreachable",
        (),
    )
    assert isinstance(plan(replace(snapshot, now=1.0)).actions[0], Fetch)
    permanent = after_rejection(progress, Rejection("SourceNotFound", "404", retryable=False), 0.0, 0.0)
    snapshot = AdapterSnapshot(desired(spec), engine(), progress=keyed({"sql": permanent}), now=SLOW_RETRY - 1)
    assert (only_report(snapshot).state, only_report(snapshot).reason, only_report(snapshot).retryable) == (
        AdapterState.FAILED,
        "SourceNotFound",
        False,
    )
    assert after_fetch(permanent) == replace(progress, weights=permanent.weights)


def test_repeated_order_keeps_fetched_files_another_does_not() -> None:
    fetched = with_fetched(ordered(Desired(), order()), fetching(), "/fetched/k/r")
    assert active(ordered(fetched, order()))["sql"].path == "/fetched/k/r"
    assert active(ordered(fetched, order(config=KEYS.replace('"region": "eu-west-1"', '"region": ""'))))["sql"].path
    assert active(ordered(fetched, order(config='{"region": "x"}')))["sql"].path == ""
    assert active(ordered(fetched, order(revision="2")))["sql"].path == ""
    assert active(ordered(fetched, order(source="s3://bucket/other")))["sql"].path == ""
    by_path = LoadRequest(lora_name="sql", lora_path="/a")
    assert (active(ordered(fetched, by_path))["sql"].path, active(ordered(fetched, by_path))["sql"].origin) == (
        "/a",
        None,
    )


def test_what_was_fetched_for_another_order_is_not_taken() -> None:
    now = ordered(Desired(), order(revision="2"))
    assert with_fetched(now, fetching(revision="1"), "/fetched/k/1") == now
    assert with_fetched(Desired(), fetching(), "/fetched/k/1") == Desired()


def test_files_that_were_removed_are_fetched_again() -> None:
    fetched = with_fetched(ordered(Desired(), order()), fetching(), "/fetched/k/r")
    without_files = with_fetched(fetched, active(fetched)["sql"], "")
    assert isinstance(plan(AdapterSnapshot(without_files, engine())).actions[0], Fetch)


def test_file_source_is_a_path_unless_it_is_to_be_copied() -> None:
    assert files_of(order(source="file:///a/b")) == ("/a/b", None)
    assert files_of(order(source="file:///a/b", output_dir="/c")) == ("", Origin("file:///a/b", "/c"))


def test_origin_has_names_of_credentials_never_values() -> None:
    request = order(config=KEYS)
    _, origin = files_of(request)
    assert origin is not None
    assert origin == Origin(SOURCE, None, (("region", "eu-west-1"),))
    assert origin.secrets == ("access_key", "secret_key")
    assert "sekret" not in repr(origin)
    config = config_of(origin, credentials_of(request))
    assert config == {"region": "eu-west-1", "access_key": "AK", "secret_key": "sekret"}


def test_restored_origin_has_the_source_of_its_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.json")
    store.save(ordered(Desired(), order(config=KEYS)))
    assert "parsed" not in (tmp_path / "state.json").read_text()
    origin = active(store.load())["sql"].origin
    assert origin is not None
    assert (origin.parsed, origin.source) == (None, parse_source(SOURCE))


def test_adapter_without_credentials_waits_for_repeated_order() -> None:
    awaiting = ordered(Desired(), order(config=KEYS))
    snapshot = AdapterSnapshot(awaiting, engine())
    assert (only_report(snapshot).state, only_report(snapshot).reason, only_report(snapshot).retryable) == (
        AdapterState.FAILED,
        "CredentialsMissing",
        True,
    )
    assert plan(snapshot).actions == ()
    assert isinstance(plan(replace(snapshot, credentials=keyed({"sql": SECRET}))).actions[0], Fetch)
    on_disk = with_fetched(awaiting, active(awaiting)["sql"], "/fetched/k/r")
    assert isinstance(plan(AdapterSnapshot(on_disk, engine())).actions[0], Load), "what is on disk needs no credentials"


def test_order_for_another_source_waits_for_running_load() -> None:
    spec = fetching()
    busy = AdapterSnapshot(desired(spec), engine(), running=keyed({"sql": Load(AdapterSpec("sql", "/old"), "why")}))
    assert (only_report(busy).state, plan(busy).actions) == (AdapterState.PENDING, ())


def test_state_file_has_no_credential_and_keeps_the_origin(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    before = with_required(ordered(Desired(), order(config=KEYS)), [order(lora_name="two", config=KEYS)])
    Store(path).save(before)
    assert Store(path).load() == before
    assert "sekret" not in path.read_text()
    assert "AK" not in path.read_text()


def test_state_file_without_sources_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(
        json.dumps({"version": 1, "desired": {"wanted": {"a": {"name": "a", "path": "/a"}}, "required_seen": {}}})
    )
    assert active(Store(path).load())["a"] == AdapterSpec("a", "/a")


@pytest.mark.parametrize("change", [{"source": "s3://bucket/two"}, {"config": '{"region": "x"}'}, {"revision": "2"}])
def test_admission_variable_with_another_source_counts_again(change: dict[str, str]) -> None:
    first = with_required(Desired(), [order(config=KEYS)])
    assert with_required(first, [order(config=KEYS)]) == first
    assert with_required(first, [order(config=KEYS.replace("sekret", "rotated"))]) == first
    assert with_required(first, [order(**{"config": KEYS, **change})]) != first


def test_progress_of_fetching_counts_no_load_calls() -> None:
    assert (
        only_report(AdapterSnapshot(desired(fetching()), engine(), progress=keyed({"sql": Progress(calls=0)}))).attempts
        == 0
    )

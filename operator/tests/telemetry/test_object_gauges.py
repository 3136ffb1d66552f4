"""Gauges of objects: one series each, bounded, and the same numbers whatever the order of changes."""

from __future__ import annotations

import random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from patio_kube.runtime.incremental import run_to_end
from patio_operator.telemetry import object_gauges
from patio_operator.telemetry.object_gauges import LORA_ADAPTER, PROFILE, ObjectGauges, ObjectState

READY = ObjectState("True", "Loaded", (2, 2, 2, 0))
LOADING = ObjectState("False", "Loading", (2, 1, 1, 0))

Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(gauges: ObjectGauges, *, shown: bool = True) -> Samples:
    """What a scrape gets, by name and values of labels."""
    text = run_to_end(gauges.text(shown=shown))
    return {
        (sample.name.removeprefix("patio_operator_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_object_has_one_series_of_each_family() -> None:
    gauges = ObjectGauges(LORA_ADAPTER)
    gauges.put("team", "sql", LOADING)
    assert samples(gauges) == {
        ("loraadapters", ("True", "Loaded")): 0,
        ("loraadapters", ("False", "Loading")): 1,
        ("loraadapter_ready", ("team", "sql", "Loading")): 0,
        ("loraadapter_desired_pods", ("team", "sql")): 2,
        ("loraadapter_ready_pods", ("team", "sql")): 1,
        ("loraadapter_updated_pods", ("team", "sql")): 1,
        ("loraadapter_failed_pods", ("team", "sql")): 0,
    }


def test_change_takes_the_place_of_what_was_there() -> None:
    gauges = ObjectGauges(LORA_ADAPTER)
    gauges.put("team", "sql", LOADING)
    samples(gauges)
    gauges.put("team", "sql", READY)
    after = samples(gauges)
    assert after["loraadapter_ready", ("team", "sql", "Loaded")] == 1
    assert ("loraadapter_ready", ("team", "sql", "Loading")) not in after
    assert ("loraadapters", ("False", "Loading")) not in after
    gauges.put("team", "sql", None)
    assert samples(gauges) == {("loraadapters", ("True", "Loaded")): 0}


def test_cluster_wide_object_has_no_namespace() -> None:
    gauges = ObjectGauges(PROFILE)
    gauges.put("", "patio", ObjectState("False", "Rolling", (3, 1)))
    assert samples(gauges)["profile_rolled_out", ("patio", "Rolling")] == 0
    assert samples(gauges)["profile_behind_pods", ("patio",)] == 1


def test_replica_that_does_not_lead_shows_no_object() -> None:
    gauges = ObjectGauges(LORA_ADAPTER)
    gauges.put("team", "sql", READY)
    assert samples(gauges, shown=False) == {}
    assert samples(gauges)["loraadapter_ready", ("team", "sql", "Loaded")] == 1


def test_status_is_read_at_a_scrape_and_once_a_change() -> None:
    reads: list[str] = []

    def read(name: str) -> ObjectState:
        reads.append(name)
        return READY

    gauges = ObjectGauges(LORA_ADAPTER)
    gauges.put("team", "a", lambda: read("before"))
    gauges.put("team", "a", lambda: read("a"))
    gauges.put("team", "b", lambda: read("b"))
    assert reads == []
    samples(gauges)
    samples(gauges)
    assert reads == ["a", "b"]


def test_objects_beyond_the_bound_are_counted_without_series() -> None:
    gauges = ObjectGauges(LORA_ADAPTER, most=2)
    for name in "abc":
        gauges.put("team", name, READY)
    found = samples(gauges)
    assert {labels[1] for name, labels in found if name == "loraadapter_ready"} == {"a", "b"}
    assert found["loraadapters", ("True", "Loaded")] == 3
    assert gauges.without_series == 1
    gauges.put("team", "a", None)
    assert {labels[1] for name, labels in samples(gauges) if name == "loraadapter_ready"} == {"b", "c"}
    assert gauges.without_series == 0


def test_reasons_are_bounded_whatever_a_status_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_gauges, "MOST_REASONS", 3)
    gauges = ObjectGauges(LORA_ADAPTER)
    hostile = ["a b", 'x"} 1\n', "", "A" * 65, "Örtlich", *(f"Reason{letter}" for letter in "ABCDEFGH")]
    for number, reason in enumerate(hostile):
        gauges.put("team", f"a{number}", ObjectState("False", reason, (0, 0, 0, 0)))
    gauges.put("team", "odd", ObjectState("maybe", "Loading", (0, 0, 0, 0)))
    counted = {labels: value for (name, labels), value in samples(gauges).items() if name == "loraadapters"}
    assert sum(counted.values()) == len(hostile) + 1
    assert {reason for _, reason in counted} == {"Loaded", "Other", "ReasonA"}
    assert {status for status, _ in counted} <= {"True", "False", "Unknown"}


def test_reason_that_changes_at_each_scrape_makes_few_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_gauges, "MOST_REASONS", 4)
    gauges = ObjectGauges(LORA_ADAPTER)
    reasons: set[str] = set()
    for letter in "ABCDEFGH":
        gauges.put("team", "a", ObjectState("False", f"Reason{letter}", (0, 0, 0, 0)))
        reasons |= {labels[-1] for name, labels in samples(gauges) if name == "loraadapter_ready"}
    assert reasons == {"ReasonA", "ReasonB", "Other"}


def test_deleted_names_are_not_kept_where_nothing_scrapes() -> None:
    gauges = ObjectGauges(LORA_ADAPTER)
    for number in range(1000):
        gauges.put("team", f"a{number}", READY)
        gauges.put("team", f"a{number}", None)
    assert gauges._changed == {}


def test_object_deleted_between_slices_is_gone() -> None:
    gauges = ObjectGauges(LORA_ADAPTER)
    for number in range(3 * object_gauges.MOST_REASONS):
        gauges.put("team", f"a{number}", READY)
    steps = gauges.settle()
    next(steps)
    gauges.put("team", "a0", None)
    gauges.put("team", "a299", None)
    assert not {labels[1] for name, labels in samples(gauges) if name == "loraadapter_ready"} & {"a0", "a299"}


def test_counts_are_those_of_the_objects_after_any_changes() -> None:
    rng = random.Random(7)
    gauges, states = ObjectGauges(LORA_ADAPTER), {}
    for _ in range(2000):
        name = f"a{rng.randrange(20)}"
        state = rng.choice([None, READY, LOADING, ObjectState("False", "NoCapacity", (1, 0, 0, 1))])
        gauges.put("team", name, state)
        if state is None:
            states.pop(name, None)
        else:
            states[name] = state
        if rng.random() < 0.1:
            samples(gauges)
    found = samples(gauges)
    counted = {labels: value for (name, labels), value in found.items() if name == "loraadapters" and value}
    wanted: dict[tuple[str, str], int] = {}
    for state in states.values():
        wanted[state.status, state.reason] = wanted.get((state.status, state.reason), 0) + 1
    assert counted == wanted
    assert {labels[1] for name, labels in found if name == "loraadapter_ready"} == set(states)

"""Families whose text is kept: the same as prometheus-client writes, made anew only after a change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Histogram,
    disable_created_metrics,
    enable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from patio.written_metrics import Families, Observations, Read, Tally, Written, gauges, total

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=8)


@pytest.fixture
def without_created() -> Iterator[None]:
    """As in the sidecar: no series says when a counter was made."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    yield
    enable_created_metrics()  # type: ignore[no-untyped-call]


def only(registry: CollectorRegistry) -> Written:
    (family,) = registry.collect()
    assert isinstance(family, Written)
    return family


@given(st.dictionaries(st.tuples(WORDS, WORDS), st.floats(allow_nan=True), max_size=5))
def test_text_is_what_prometheus_client_writes(values: dict[tuple[str, str], float]) -> None:
    for family in (gauges("patio:x", "Meaning.", ("zone", "adapter"), values), total("patio:y_total", "Meaning.", 2)):
        assert family.text == generate_latest(Families((family,)))


def test_counter_is_zero_from_the_start_for_known_labels() -> None:
    registry = CollectorRegistry()
    tally = Tally("patio:x_total", "Meaning.", ("reason",), registry, initial=(("a",), ("b",)))
    assert only(registry).text.endswith(b'patio:x_total{reason="a"} 0.0\npatio:x_total{reason="b"} 0.0\n')
    tally.count("b")
    tally.count("b", amount=2)
    tally.count("new")
    found = {labels: registry.get_sample_value("patio:x_total", {"reason": labels}) for labels in ("a", "b", "new")}
    assert found == {"a": 0, "b": 3, "new": 1}


def test_text_of_a_counter_is_kept_until_it_counts() -> None:
    registry = CollectorRegistry()
    tally = Tally("patio:x_total", "Meaning.", ("reason",), registry)
    first = only(registry)
    assert only(registry) is first
    tally.count("a")
    assert only(registry) is not first


@pytest.mark.usefixtures("without_created")
@pytest.mark.parametrize("labels", [(), ("operation",)])
def test_histogram_is_that_of_prometheus_client_and_kept(labels: tuple[str, ...]) -> None:
    registry, client_registry = CollectorRegistry(), CollectorRegistry()
    kept = Observations("patio:x_seconds", "Meaning.", labels, (1, 5), registry)
    client = Histogram("patio:x_seconds", "Meaning.", labels, buckets=(1, 5), registry=client_registry)
    assert only(registry).text == generate_latest(client_registry)
    values = ("load",) * len(labels)
    kept.observe(2.0, *values)
    (client.labels(*values) if labels else client).observe(2.0)
    assert only(registry).text == generate_latest(client_registry)
    assert only(registry) is only(registry)
    assert registry.get_sample_value("patio:x_seconds_sum", dict(zip(labels, values, strict=True))) == 2.0


def test_families_of_a_value_are_kept_while_it_is_the_same() -> None:
    value = (1.0,)
    made: list[object] = []

    def families(values: tuple[float, ...]) -> list[Metric]:
        made.append(values)
        return [gauges("patio:x", "Meaning.", (), {(): values[0]})]

    registry = CollectorRegistry()
    registry.register(Read(lambda: value, families))
    made.clear()
    value = (2.0,)
    assert only(registry) is only(registry)
    assert made == [(2.0,)]
    assert only(registry).text == b"# HELP patio:x Meaning.\n# TYPE patio:x gauge\npatio:x 2.0\n"


def test_counter_is_one_in_openmetrics_too() -> None:
    registry = CollectorRegistry()
    Tally("patio:x_total", "Meaning.", ("reason",), registry, initial=(("a",),))
    text = openmetrics(registry, escaping="allow-utf-8").decode()  # type: ignore[no-untyped-call]
    assert '# TYPE patio:x counter\npatio:x_total{reason="a"} 0.0\n' in text.replace('"patio:x"', "patio:x")


def test_labels_that_do_not_fit_the_names_are_an_error() -> None:
    registry = CollectorRegistry()
    Tally("patio:x_total", "Meaning.", ("reason", "outcome"), registry).count("a")
    with pytest.raises(IndexError):
        only(registry)

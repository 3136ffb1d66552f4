"""The front's metrics: cold starts by phase, and no label that outlives its model."""

from __future__ import annotations

import dataclasses

from patio_gateway.front.holder import Outcome
from patio_gateway.front.knowledge import Index
from patio_gateway.front.metrics import Metrics
from patio_gateway.snapshot import Model, Snapshot, Start, StartPhase, Worker

ASLEEP = Model("a/m", ("m",))
LOADING = dataclasses.replace(ASLEEP, start=Start(StartPhase.LOADING))
READY = dataclasses.replace(ASLEEP, workers=(Worker("m-0", ("127.0.0.1", 1)),))


def index(*models: Model) -> Index:
    return Index(Snapshot(models=models))


def test_cold_start_is_counted_with_its_phases() -> None:
    metrics, waiting = Metrics(), frozenset({"a/m"})
    for now, model in ((10.0, ASLEEP), (12.0, LOADING), (17.0, READY)):
        metrics.moved(index(model), waiting, now)
    text = metrics.text().decode()
    assert 'patio_gateway_cold_start_seconds_sum{endpoint="a/m",outcome="ready"} 7.0' in text
    assert 'patio_gateway_cold_start_phase_seconds_total{endpoint="a/m",phase="Asleep"} 2.0' in text
    assert 'patio_gateway_cold_start_phase_seconds_total{endpoint="a/m",phase="Loading"} 5.0' in text


def test_deleted_model_leaves_no_series() -> None:
    metrics = Metrics()
    metrics.moved(index(ASLEEP), frozenset({"a/m"}), 1.0)
    metrics.wait_ended("a/m", Outcome.LATE, 5.0)
    metrics.moved(index(), frozenset(), 2.0)
    metrics.wait_ended("a/m", Outcome.DELETED, 5.0)
    assert "a/m" not in metrics.text().decode()


def test_odd_status_has_no_label_of_its_own() -> None:
    metrics = Metrics()
    for code in (200, 418, 599):
        metrics.answered(code)
    text = metrics.text().decode()
    assert 'patio_gateway_front_answers_total{code="200"} 1.0' in text
    assert 'patio_gateway_front_answers_total{code="other"} 2.0' in text

"""What the sidecar saw of its engine's life, as metrics: the model's name also while the engine is down."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from patio.engine.history import EngineHistory
from patio.written_metrics import Read, gauges, total


class EngineLifeMetrics:
    """Read from the history when they are scraped."""

    def __init__(self, registry: CollectorRegistry, engine: str, history: Callable[[], EngineHistory]) -> None:
        self._engine = engine
        registry.register(Read(history, self._families))

    def _families(self, history: EngineHistory) -> Iterator[Metric]:
        yield total(
            "patio:engine_restarts_total",
            "Times that the engine was ready again after nothing had listened on its port.",
            history.restarts,
        )
        if history.start_seconds is not None:
            yield gauges(
                "patio:engine_start_seconds",
                "Seconds that the engine's last start took: from when nothing listened on its port until it was ready.",
                (),
                {(): history.start_seconds},
            )
        if history.model_name is not None:
            yield gauges(
                "patio:engine_info",
                "Always 1; the labels name the engine and the model that it serves, also while it is down.",
                ("model_name", "inference_engine"),
                {(history.model_name, self._engine): 1.0},
            )

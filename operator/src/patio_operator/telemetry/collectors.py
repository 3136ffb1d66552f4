"""Families whose numbers others keep anyhow, read when Prometheus asks: each read is a few additions.

Who has the numbers sets `read` or registers itself (the wiring of a feature, `app`); before that a family is there
without samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Values = Mapping[str, float]
"""The value of each label, by the label's value; of a family without a label, by the empty text."""


class ReadFamily(Collector):
    """A family with one label or none, whose samples are read when they are asked for."""

    def __init__(
        self,
        registry: CollectorRegistry,
        family: type[GaugeMetricFamily] | type[CounterMetricFamily],
        name: str,
        help_: str,
        label: str = "",
    ) -> None:
        self._family = family
        self._name = name
        self._help = help_
        self._labels = [label] if label else []
        self.read: Callable[[], Values] = dict
        """Returns the samples."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        family = self._family(self._name, self._help, labels=self._labels)
        for value, number in self.read().items():
            family.add_metric([value] if self._labels else [], number)
        yield family


class Queue(Protocol):
    """What a work queue tells of itself."""

    retries: int

    @property
    def depth(self) -> int:
        """How many keys wait for a worker."""

    @property
    def retrying(self) -> int:
        """Of how many keys the last pass failed."""

    @property
    def oldest_seconds(self) -> float:
        """For how long the first of the keys has been due."""


class Queues:
    """The work queues, by the kind of their objects."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queues: dict[str, Queue] = {}

        def family(
            type_: type[GaugeMetricFamily] | type[CounterMetricFamily],
            name: str,
            help_: str,
            number: Callable[[Queue], float],
        ) -> None:
            made = ReadFamily(registry, type_, name, help_, "kind")
            made.read = lambda: {kind: number(queue) for kind, queue in self._queues.items()}

        family(
            GaugeMetricFamily,
            "patio_operator_queue_depth",
            "Keys that wait for a worker of a reconciler.",
            lambda queue: queue.depth,
        )
        family(
            GaugeMetricFamily,
            "patio_operator_queue_oldest_seconds",
            "For how long the first of the keys has been due that had no successful pass since; 0 without one.",
            lambda queue: queue.oldest_seconds,
        )
        family(
            GaugeMetricFamily,
            "patio_operator_queue_retrying",
            "Keys whose last pass failed, and which get another one.",
            lambda queue: queue.retrying,
        )
        family(
            CounterMetricFamily,
            "patio_operator_retries_total",
            "Passes that were made because the one before failed.",
            lambda queue: queue.retries,
        )

    def register(self, kind: str, queue: Queue) -> None:
        """Show a queue."""
        self._queues[kind] = queue

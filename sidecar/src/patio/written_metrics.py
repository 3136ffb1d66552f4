"""Families of metrics whose text is kept until they change: counters from a known set of labels on, histograms, and
gauges read from a value.

prometheus-client 0.26 takes 6 µs to write one sample, at every scrape. A sidecar has hundreds that hardly ever move,
and up to thousands of adapters: `metrics.self_metrics` takes their text from here as it is. Each feature's `metrics`
module makes its families of these, beside those of prometheus-client, in the same registry. One event loop calls
everything here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

_T = TypeVar("_T")

_GAUGE, _COUNTER = "gauge", "counter"
_SPECIAL = re.compile(r'[\\"\n]')

Labels = tuple[str, ...]
"""Values, in the order of the family's names."""
Values = Mapping[Labels, float]


class Written(Metric):
    """A family that has its text in the Prometheus format already."""

    def __init__(self, name: str, documentation: str, kind: str, text: bytes) -> None:
        super().__init__(name, documentation, kind)
        self.text = text


class _Series(Written):
    """A family of gauges or counters."""

    def __init__(self, name: str, documentation: str, kind: str, labels: Sequence[str], values: Values) -> None:
        """`name` is that of the samples, of a counter with `_total`."""
        # As text, labels are in the order of their names.
        pairs = ",".join(f'{label}="{{{index}}}"' for index, label in sorted(enumerate(labels), key=itemgetter(1)))
        form = f"{name}{{{{{pairs}}}}}" if labels else name
        # One search for all: hardly ever is there anything to escape.
        escapes = _SPECIAL.search("".join(chain.from_iterable(values))) is not None
        lines = [
            f"{form.format(*map(_escaped, label_values) if escapes else label_values)} {_number(value)}\n"
            for label_values, value in values.items()
        ]
        text = "".join((f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n", *lines)).encode()
        super().__init__(name.removesuffix("_total") if kind == _COUNTER else name, documentation, kind, text)
        self._labelnames = tuple(labels)
        """As prometheus-client's own families call it."""
        self._made_of = (name, dict(values))

    @property
    def samples(self) -> list[Sample]:
        """The same as objects, for other formats. Not kept: of thousands of adapters they are megabytes."""
        name, values = self._made_of
        return [
            Sample(name, dict(zip(self._labelnames, label_values, strict=True)), value)
            for label_values, value in values.items()
        ]

    @samples.setter
    def samples(self, _: list[Sample]) -> None:
        """Leave it: the constructor of `Metric` sets it to none."""


class Tally(Collector):
    """A counter that is 0 from the start for its initial labels: `increase()` then sees the first event."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        initial: Iterable[Labels] = (),
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._values = dict.fromkeys(initial, 0.0)
        self._written: Written | None = None
        registry.register(self)

    def count(self, *labels: str, amount: float = 1) -> None:
        """Add to the counter with these labels."""
        self._values[labels] = self._values.get(labels, 0.0) + amount
        self._written = None

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        if self._written is None:
            self._written = _Series(self._name, self._documentation, _COUNTER, self._labels, self._values)
        yield self._written


class Observations(Collector):
    """A histogram; with labels, it has series from the first observation on."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._histogram = Histogram(name, documentation, labels, buckets=buckets, registry=None)
        self._labelnames = tuple(labels)
        self._written: Written | None = None
        registry.register(self)

    def observe(self, value: float, *labels: str) -> None:
        """Take in one observation."""
        (self._histogram.labels(*labels) if labels else self._histogram).observe(value)
        self._written = None

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        if self._written is None:
            (family,) = self._histogram.collect()
            self._written = Written(
                family.name, family.documentation, family.type, generate_latest(Families((family,)))
            )
            self._written.samples = family.samples
        yield self._written


class Families(Collector):
    """Families that were collected already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._families


class Read(Collector, Generic[_T]):
    """Families that are made of a value when they are scraped, and kept for as long as the value is the same object."""

    def __init__(self, value: Callable[[], _T], made: Callable[[_T], Iterable[Metric]]) -> None:
        self._value = value
        self._made = made
        self._last: tuple[_T, tuple[Metric, ...]] | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        value = self._value()
        if self._last is None or self._last[0] is not value:
            self._last = (value, tuple(self._made(value)))
        yield from self._last[1]


def gauges(name: str, documentation: str, labels: Sequence[str], values: Values) -> Written:
    """Return a family of gauges as they are now."""
    return _Series(name, documentation, _GAUGE, labels, values)


def total(name: str, documentation: str, value: float) -> Written:
    """Return a counter without labels as it is now."""
    return _Series(name, documentation, _COUNTER, (), {(): value})


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if value == 1.0:
        return "1.0"
    printed: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # prometheus-client 0.26 has no type there
    return printed

"""Whether the pod is ready, and what its readiness waits for: what `/ready` says, as metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from patio.readiness import Blocker, BlockerKind
from patio.written_metrics import Values, gauges


class ReadinessMetrics(Collector):
    """Read when they are scraped."""

    def __init__(
        self, registry: CollectorRegistry, kinds: Iterable[BlockerKind], blockers: Callable[[], Sequence[Blocker]]
    ) -> None:
        """`kinds` are those that there can be; each has a series, also when nothing of it is waited for."""
        self._kinds = tuple(kinds)
        self._blockers = blockers
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        counts = Counter(blocker.kind for blocker in self._blockers())
        yield gauges("patio:ready", "1 if /ready answers 200.", (), {(): float(not counts)})
        values: Values = {(str(kind),): float(counts[kind]) for kind in self._kinds}
        yield gauges("patio:waiting_for", "What the pod's readiness waits for, by reason.", ("reason",), values)

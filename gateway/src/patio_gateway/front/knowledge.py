"""Where the front learns of models and workers, and what it looks up there. Pure but for the subscription.

Control publishes a snapshot after Envoy has taken it, so that a request which the front sends back finds its worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from patio_gateway.front.queue.queues import Place
from patio_gateway.snapshot import Model, Snapshot


class Knowledge(Protocol):
    """The newest snapshot that Envoy has."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot."""

    @property
    def ready(self) -> bool:
        """Whether there is one already."""

    def subscribe(self, listener: Callable[[Snapshot], None]) -> None:
        """Call `listener` with each new snapshot, in the event loop."""


class Index:
    """A snapshot by its names: what a request needs of it without a search."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.endpoints: Mapping[str, Model] = {model.endpoint: model for model in snapshot.models}
        self.priorities: Mapping[str, int] = {client.name: client.priority for client in snapshot.clients}
        self.ready: Mapping[Place, int] = {
            place: count * model.queue.per_worker
            for model in snapshot.models
            for place, count in _workers(model).items()
            if count
        }
        """What the workers of each model and adapter take at a time, where there are any."""
        self.places = frozenset(place for model in snapshot.models for place in _workers(model))
        self._names = {name: (model, name) for model in reversed(snapshot.models) for name in model.adapters}
        self._models = {name: model for model in reversed(snapshot.models) for name in model.names}

    def find(self, name: str) -> tuple[Model, str | None] | None:
        """Return the model of a name, and the adapter if it is the name of an adapter. Models take precedence."""
        model = self._models.get(name)
        return (model, None) if model is not None else self._names.get(name)


def _workers(model: Model) -> dict[Place, int]:
    """Return how many workers the model and each of its adapters have."""
    counts: dict[Place, int] = {(model.endpoint, None): len(model.workers)}
    for adapter in model.adapters:
        counts[model.endpoint, adapter] = 0
    for worker in model.workers:
        for adapter in worker.adapters:
            if (model.endpoint, adapter) in counts:
                counts[model.endpoint, adapter] += 1
    return counts

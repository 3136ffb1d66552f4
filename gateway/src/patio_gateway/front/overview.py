"""What the page for people shows: models, workers, adapters, queues, the last scaling decisions. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from patio_gateway.front.demand import Demand
from patio_gateway.snapshot import Model, StartPhase


def overview(models: Iterable[Model], demands: Iterable[Demand], client: str | None) -> dict[str, Any]:
    """Return the body of `GET /overview`: the models that `client` may use."""
    by_endpoint = {each.endpoint: each for each in demands}
    shown = sorted(models, key=lambda model: (model.names[0], model.endpoint))
    return {
        "client": client,
        "models": [_model(each, by_endpoint.get(each.endpoint)) for each in shown],
    }


def state(model: Model) -> str:
    """Return the state of a model in one word: Ready, Disabled, or the phase of its start."""
    if model.workers:
        return "Ready"
    if not model.can_wake and model.start.phase is StartPhase.ASLEEP:
        return "Disabled"
    return model.start.phase.value


def _model(model: Model, demand: Demand | None) -> dict[str, Any]:
    decision = model.last_decision
    loaded = dict.fromkeys(model.adapters, 0)
    for worker in model.workers:
        for name in worker.adapters & loaded.keys():
            loaded[name] += 1
    return {
        "endpoint": model.endpoint,
        "name": model.names[0],
        "aliases": list(model.names[1:]),
        "engine": model.engine,
        "state": state(model),
        "percent": model.start.percent if not model.workers else None,
        "message": model.start.message if not model.workers else "",
        "workers": [{"name": worker.name, "adapters": len(worker.adapters)} for worker in model.workers],
        "adapters": [{"name": name, "workers": count} for name, count in sorted(loaded.items())],
        "queue": {
            "length": demand.held if demand is not None else 0,
            "max": model.queue.max,
            "oldestWaitSeconds": round(demand.oldest_wait, 1) if demand is not None else 0.0,
        },
        "lastActivity": demand.last_activity if demand is not None else None,
        "decision": None
        if decision is None
        else {"at": decision.at, "from": decision.before, "to": decision.after, "reason": decision.reason},
    }

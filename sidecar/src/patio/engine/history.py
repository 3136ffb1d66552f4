"""What the sidecar saw of its engine's life: restarts, how long the last start took, which model it served. Pure.

`adapters.reconciler` takes each poll that counts into a history; `metrics.engine_life` shows it. A restart is seen by
the port: nothing listens, so the process is gone. An engine that only does not answer is not restarted. Clocks are the
caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from patio.engine.base import EngineView


@dataclass(frozen=True, slots=True)
class EngineHistory:
    """What was seen since the sidecar's start."""

    absent_since: float | None = None
    """When nothing listened for the first time, of a start that is not over."""
    was_ready: bool = False
    restarts: int = 0
    """Times that the engine was ready again after nothing had listened."""
    start_seconds: float | None = None
    """Seconds that the last start took, from when nothing listened until the engine was ready; None: none was seen."""
    model_name: str | None = None
    """The engine's name of its base model, the first if it has several; kept while the engine is down."""


def after_view(history: EngineHistory, view: EngineView, now: float) -> EngineHistory:
    """Return the history with one more poll in it."""
    if not view.ready:
        begins = not view.listening and history.absent_since is None
        return replace(history, absent_since=now) if begins else history
    model_name = view.base_models[0] if view.base_models else history.model_name
    since = history.absent_since
    if since is None:
        same = history.was_ready and model_name == history.model_name
        return history if same else replace(history, was_ready=True, model_name=model_name)
    return EngineHistory(None, True, history.restarts + history.was_ready, now - since, model_name)

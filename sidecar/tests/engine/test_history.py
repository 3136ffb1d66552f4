"""What polls say of the engine's life: what a restart is, and what is none."""

from __future__ import annotations

from patio.engine.base import EngineReason, EngineView, RetryableError
from patio.engine.history import EngineHistory, after_view

READY = EngineView(ready=True, base_models=("tiny", "small"))
GONE = EngineView(ready=False, listening=False)
WARMING = EngineView(ready=False)
SILENT = EngineView(ready=False, error=RetryableError(EngineReason.UNREACHABLE, "no answer"))


def seen(*views: tuple[float, EngineView]) -> EngineHistory:
    history = EngineHistory()
    for now, view in views:
        history = after_view(history, view, now)
    return history


def test_first_start_is_timed_and_no_restart() -> None:
    history = seen((10, GONE), (20, GONE), (30, WARMING), (45, READY))
    assert (history.start_seconds, history.restarts, history.model_name) == (35, 0, "tiny")


def test_engine_that_was_ready_first_has_no_start_time() -> None:
    assert seen((10, READY)).start_seconds is None
    assert seen((10, WARMING), (20, READY)).start_seconds is None


def test_restart_counts_once_the_engine_is_ready_again() -> None:
    crashed = seen((0, GONE), (5, READY), (60, GONE), (90, WARMING))
    assert (crashed.restarts, crashed.start_seconds) == (0, 5)
    history = after_view(crashed, READY, 100)
    assert (history.restarts, history.start_seconds) == (1, 40)
    assert after_view(after_view(history, GONE, 200), READY, 201).restarts == 2


def test_engine_that_only_does_not_answer_is_not_restarted() -> None:
    history = seen((0, READY), (10, SILENT), (20, WARMING), (30, READY))
    assert (history.restarts, history.start_seconds) == (0, None)


def test_model_stays_known_while_the_engine_is_down() -> None:
    assert seen((0, GONE)).model_name is None
    assert seen((0, READY), (10, GONE), (20, EngineView(ready=True))).model_name == "tiny"
    assert seen((0, READY), (10, GONE), (20, EngineView(ready=True, base_models=("other",)))).model_name == "other"


def test_poll_that_changes_nothing_returns_the_same_history() -> None:
    up, down = seen((0, READY)), seen((0, GONE))
    assert after_view(up, READY, 9) is up
    assert after_view(down, GONE, 9) is down

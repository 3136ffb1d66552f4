"""Whether and when a server that ended by itself is started again."""

from __future__ import annotations

import pytest

from inference_server.restarts import LONGEST_PAUSE, STEADY_SECONDS, RestartPolicy, restarts_after


def test_server_is_not_started_again_unless_it_is_said() -> None:
    assert RestartPolicy().pause(0, -9) is None


def test_pauses_double_up_to_a_minute_and_end_at_the_limit() -> None:
    policy = RestartPolicy("on-failure", limit=9)
    pauses = [policy.pause(restarts, 1) for restarts in range(10)]
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE, None]


def test_engine_that_finished_is_not_started_again() -> None:
    assert RestartPolicy("on-failure").pause(0, 0) is None


def test_restarts_are_counted_from_0_after_a_steady_time() -> None:
    assert restarts_after(2, STEADY_SECONDS - 1) == 2
    assert restarts_after(2, STEADY_SECONDS) == 0


def test_unknown_mode_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="restart must be one of never, on-failure, not 'always'"):
        RestartPolicy("always")

"""What is remembered of instances, where clocks differ or somebody else wrote it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from patio_api.rolebasedgroup import RestartPolicyConfig
from patio_operator.groups.planner import restart_state
from patio_operator.groups.planner.restart_state import RestartState
from patio_testing.operator.builders import NOW


@pytest.mark.parametrize("at", [NOW + timedelta(minutes=5), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)])
def test_time_that_is_still_to_come_counts_as_now(at: datetime) -> None:
    config = RestartPolicyConfig(base_delay_seconds=30, max_delay_seconds=600)
    _, wait = restart_state.recreated(RestartState(ready=True, recreations=1, recreated_at=at), config, NOW)
    assert wait == timedelta(seconds=30)


def test_absurd_restart_count_waits_no_longer_than_the_longest() -> None:
    config = RestartPolicyConfig(base_delay_seconds=30, max_delay_seconds=600)
    text = '{"r": {"0": {"ready": true, "recreations": 1000000000, "recreatedAt": "2026-11-21T12:00:00Z"}}}'
    after, wait = restart_state.recreated(restart_state.read(text)["r"][0], config, NOW)
    assert wait == timedelta(seconds=600)
    assert after.recreated_at == NOW

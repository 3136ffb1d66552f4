"""What counts as progress of a start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from inference_server.stall_detection import Activity, made_progress

BEFORE = Activity(at=10.0, lines=5, cpu_seconds=3.0, bytes_read=100)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"lines": 6}, True),
        ({"bytes_read": 101}, True),
        ({"cpu_seconds": 3.01}, False),
        ({"cpu_seconds": 3.03}, True),
        ({"cpu_seconds": 2.0}, True),
    ],
)
def test_output_bytes_and_work_are_progress(change: dict[str, Any], expected: bool) -> None:
    assert made_progress(BEFORE, replace(BEFORE, at=11.0, **change)) is expected

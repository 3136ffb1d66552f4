"""The record of a run is JSON, and what is not such a record is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_server import StopReport
from inference_server.gpu_memory import GpuRelease, Leftover
from inference_server.processes import Identity
from inference_server.run_record import COMMAND, RunRecord, record_of, stop_values, to_text

RECORD = RunRecord(
    backend="vllm",
    model="m",
    port=8000,
    url="http://localhost:8000",
    state="ready",
    output_dir="/logs",
    log_file="/logs/vllm_server.log",
    error_log_file="/logs/vllm_server_error.log",
    command=("python", "-m", "vllm", "é"),
    working_directory="/",
    environment={"HF_TOKEN": "***"},
    endpoints={"health": "http://localhost:8000/health"},
    versions={"python": "3.11.7"},
    owner=Identity(1, 10),
    owned_by=COMMAND,
    keeper=Identity(2, 20),
    engine=None,
    started_at="2026-01-01T00:00:00+00:00",
    stop_timeout=45.0,
    phases={"ready": 1.5},
)


def test_record_is_read_as_it_was_written() -> None:
    assert record_of(to_text(RECORD)) == RECORD


def test_keys_of_a_later_version_are_left_out() -> None:
    assert record_of(json.dumps({**json.loads(to_text(RECORD)), "later": 1})) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        *({"format": 2}, {"port": "x"}, {"keeper": None}, {"owner": {"pid": 1}}, {"command": 1}, {"state": 3}),
        *({"environment": []}, {"engine": [1, 2]}, {"stop_timeout": None}),
    ],
)
def test_wrong_value_is_a_value_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        record_of(json.dumps({**json.loads(to_text(RECORD)), **change}))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "{}", '{"format": 1}'])
def test_other_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        record_of(text)


def test_stop_is_written_with_what_was_sent_and_left() -> None:
    release = GpuRelease(2.0, ("0",), (Leftover("0", 512, ((77, "python"),)),))
    values = stop_values(StopReport(1.23456, (("leader", 15), ("kill", 9)), -9, (77,), gpu_memory=release))
    assert values == {
        "seconds": 1.235,
        "signals": [["leader", 15], ["kill", 9]],
        "exit_code": -9,
        "survivors": [77],
        "gpu_memory": {
            "seconds": 2.0,
            "devices": ("0",),
            "leftovers": ({"device": "0", "mib": 512, "holders": ((77, "python"),)},),
        },
    }
    assert stop_values(StopReport(0.0, (), 0, ()))["gpu_memory"] is None

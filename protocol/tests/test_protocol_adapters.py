"""The wire words of orders and reports: what belongs together, and that old and new understand each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from patio_protocol.adapters import AdapterList, AdapterReport, LoadRequest, PreparedState

SOURCE = "s3://bucket/sql"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_path": "/a", "prepare": True}, "need a source"),
        ({"lora_path": "/a", "expects_credentials": True}, "need a source"),
        ({"lora_path": "/a", "credentials_revision": "7"}, "need a source"),
        ({"source": "file:///a", "prepare": True}, "nothing to prepare"),
        ({"source": SOURCE, "config": '{"hf_token": "x"}', "expects_credentials": True}, "credentials already"),
        ({"source": SOURCE, "credentials_revision": "x" * 129}, "at most 128"),
        ({}, "exactly one"),
    ],
)
def test_fields_that_exclude_each_other_are_rejected_by_message(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LoadRequest(lora_name="sql", **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"source": SOURCE, "prepare": True},
        {"source": "file:///a", "output_dir": "/models/a", "prepare": True},
        {"source": SOURCE, "expects_credentials": True, "prepare": True},
        {"source": SOURCE, "config": '{"endpoint": "https://s3.example.com"}', "expects_credentials": True},
        {"source": "file:///a", "credentials_revision": "7"},
    ],
)
def test_what_belongs_together_is_taken(fields: dict[str, Any]) -> None:
    LoadRequest(lora_name="sql", **fields)


def test_order_has_only_set_fields_so_older_sidecars_read_it() -> None:
    body = json.loads(LoadRequest(lora_name="sql", source=SOURCE, wait=0).model_dump_json(exclude_unset=True))
    assert body == {"lora_name": "sql", "source": SOURCE, "wait": 0}


def test_answers_of_an_older_sidecar_are_read() -> None:
    report = {"lora_name": "sql", "lora_path": "/a", "state": "Loaded", "reason": "Loaded", "since": 1.0}
    decoded = AdapterReport.model_validate(report)
    assert (decoded.held_revision, decoded.prepared, decoded.credentials_revision) == (None, None, None)
    assert AdapterList.model_validate({"revision": "1", "engine": "vllm", "engine_ready": True}).on_disk == ()


def test_answers_of_a_newer_sidecar_are_read() -> None:
    prepared = {"revision": "8", "state": "Prepared", "reason": "Prepared", "news": 1}
    report = {"lora_name": "sql", "lora_path": None, "state": "Pending", "reason": "Prepared", "since": 1.0}
    decoded = AdapterReport.model_validate({**report, "prepared": prepared, "news": 1})
    assert decoded.prepared is not None
    assert decoded.prepared.state is PreparedState.PREPARED


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one"),
        ({"lora_path": "/a", "source": "o/r"}, "exactly one"),
        ({"lora_path": "/a", "output_dir": "/b"}, "need a source"),
        ({"lora_path": "/a", "config": "{}"}, "need a source"),
        ({"source": "ftp://x/y"}, "not one of"),
        ({"source": "o/r", "output_dir": "relative"}, "output_dir"),
        ({"source": "o/r", "max_workers": 0}, "max_workers"),
    ],
)
def test_order_has_a_path_or_a_source(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LoadRequest.model_validate({"lora_name": "a", **fields})


def test_order_of_a_source_waits_long_unless_it_says_otherwise() -> None:
    assert LoadRequest(lora_name="a", lora_path="/a").patience == 60
    assert LoadRequest(lora_name="a", source="o/r").patience == 600
    assert LoadRequest(lora_name="a", source="o/r", wait=5).patience == 5
    assert LoadRequest(lora_name="a", source="o/r", async_download=True).patience == 0

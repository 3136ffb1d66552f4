"""The Service of a LoraAdapter: what it is, and when there can be none."""

from __future__ import annotations

import dataclasses

import pytest

from patio_api.labels import adapter_label
from patio_operator.loraadapters.planner.services import (
    decode_service,
    engine_port,
    invalid_name,
    is_as_wanted,
    name_taken,
    service_of,
    waits_for_labels,
)
from patio_testing.operator.builders import lora_adapter, pod


def test_service_selects_pods_with_adapter_by_its_request_name() -> None:
    name = "An.Adapter-" + "x" * 80
    service = service_of(lora_adapter("sql", adapterName=name), 8000)
    key = adapter_label(name)
    owner = {"owner.lora.patio.dev/uid-sql": key.removeprefix("lora.patio.dev/")}
    assert service["spec"]["selector"] == {key: "loaded"} | owner
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": 8000, "protocol": "TCP"}]
    assert service["metadata"]["ownerReferences"][0]["uid"] == "uid-sql"


def test_service_differs_by_edits_and_not_by_api_server_defaults() -> None:
    service = service_of(lora_adapter(), 8000)
    stored = {
        **service,
        "metadata": {**service["metadata"], "uid": "u"},
        "spec": {**service["spec"], "clusterIP": "1.2.3.4"},
    }
    assert is_as_wanted(decode_service(stored), service)
    changed = {**stored, "spec": {**stored["spec"], "selector": {"app": "another"}}}
    assert not is_as_wanted(decode_service(changed), service)
    assert not is_as_wanted(decode_service(stored), service_of(lora_adapter(), 8001))


@pytest.mark.parametrize(
    ("ports", "chosen"), [([], None), ([None], None), ([8000, 9000, 9000, None], 9000), ([2, 1], 1)]
)
def test_its_target_is_the_port_that_most_engines_have(ports: list[int | None], chosen: int | None) -> None:
    assert engine_port(ports) == chosen


@pytest.mark.parametrize(("name", "possible"), [("sql", True), ("sql-2", True), ("2-sql", False), ("a.b", False)])
def test_not_every_name_of_a_loraadapter_can_be_a_services(name: str, possible: bool) -> None:
    condition = invalid_name(lora_adapter(name))
    assert (condition is None) == possible
    assert condition is None or condition.reason == "ServiceNameInvalid"


def test_service_of_an_older_version_waits_for_the_owners_labels() -> None:
    adapter = lora_adapter("sql")
    service = service_of(adapter, 8000)
    older = {
        **service,
        "metadata": {**service["metadata"], "uid": "u"},
        "spec": {**service["spec"], "selector": {adapter_label("sql"): "loaded"}},
    }
    labelled = pod(serving=["sql"])
    without_owner = dataclasses.replace(labelled, owners=frozenset())
    assert waits_for_labels(decode_service(older), adapter, [labelled, without_owner])
    assert not waits_for_labels(decode_service(older), adapter, [labelled])
    current = {**service, "metadata": {**service["metadata"], "uid": "u"}}
    assert not waits_for_labels(decode_service(current), adapter, [without_owner])


def test_service_of_somebody_else_is_named_and_left_alone() -> None:
    condition = name_taken("sql")
    assert condition.reason == "ServiceNameTaken"
    assert "Service sql already exists" in condition.message

"""What is kept of ModelEndpoints, LoraAdapters and pods, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest

from patio_api.endpoint_labels import TAKES_REQUESTS
from patio_api.labels import LONGEST_LABELS, adapter_labels
from patio_gateway.snapshot import Decision, QueueLimits, Routing, Start, StartPhase
from patio_gateway.sources.kubernetes.cached_objects import (
    LONGEST_MESSAGE,
    CachedEndpoint,
    decode_adapter,
    decode_endpoint,
    decode_pod,
)
from patio_testing.model_objects import Object, lora_adapter, model_endpoint, serving_adapters, worker_pod

DELETED = "2026-11-27T12:00:00Z"


def endpoint(**fields: Any) -> CachedEndpoint:
    decoded = decode_endpoint(model_endpoint(**fields))
    assert decoded is not None
    return decoded


def test_spec_of_an_endpoint_is_kept_in_the_words_of_a_snapshot() -> None:
    kept = endpoint(
        model={"uri": "hf://Qwen/Qwen3-8B", "name": "qwen3-8b", "aliases": ["chat"]},
        engine="sglang",
        workers={"max": 3, "concurrency": 16},
        queue={"max": 7, "timeout": "1m30s"},
        routing={"prefixAware": False, "sessionHeader": "x-user", "loadBound": 2.0, "fallbacks": ["other"]},
        access={"public": True, "owner": "team-a"},
        adapters=serving_adapters(tier="gold"),
    )
    model = kept.model
    assert (model.endpoint, model.names, model.engine) == ("team/m", ("qwen3-8b", "chat"), "sglang")
    assert (model.public, model.owner, model.created, model.can_wake) == (True, "team-a", 1795773600, True)
    assert model.routing == Routing(prefix_aware=False, session_header="x-user", load_bound=2.0)
    assert model.queue == QueueLimits(max=7, timeout=90.0, per_worker=16)
    assert kept.fallbacks == ("other",)
    assert kept.adapter_labels == {("tier", "gold")}


def test_endpoint_without_optional_fields_has_defaults() -> None:
    kept = endpoint()
    assert (kept.model.names, kept.model.queue, kept.adapter_labels) == (("m",), QueueLimits(), None)
    assert kept.model.start == Start(StartPhase.ASLEEP)


def test_endpoint_without_workers_cannot_wake() -> None:
    assert not endpoint(workers={"max": 0}).model.can_wake


def test_progress_of_a_start_is_the_phase_that_clients_read() -> None:
    message = "  34 % of\n the model " + "x" * 1000
    start = endpoint(status={"progress": {"phase": "Downloading", "percent": 34, "message": message}}).model.start
    assert (start.phase, start.percent) == (StartPhase.DOWNLOADING, 34)
    assert start.message.startswith("34 % of the model x")
    assert len(start.message) == LONGEST_MESSAGE


def test_last_change_of_workers_is_kept_for_people() -> None:
    last = {"at": "2026-11-27T10:00:00Z", "from": 0, "to": 2, "reason": "2 requests wait."}
    assert endpoint(status={"lastDecision": last}).model.last_decision == Decision(
        1795773600.0, 0, 2, "2 requests wait."
    )


def test_status_that_no_request_needs_changes_nothing() -> None:
    before = endpoint(status={"inFlight": 1, "workers": {"ready": 1}, "lastActivity": "2026-11-27T10:00:01Z"})
    assert before == endpoint(status={"inFlight": 2, "workers": {"ready": 2}, "lastActivity": "2026-11-27T10:00:09Z"})


@pytest.mark.parametrize(
    "spec",
    [
        {"model": None},
        {"queue": {"timeout": "soon"}},
        {"workers": {"max": "many"}},
        {"roles": [{"type": "server", "env": [{"x": ["y"] * 11_000}]}]},
    ],
)
def test_endpoint_that_cannot_be_read_is_said_to_be_so(spec: Object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode_endpoint(model_endpoint(**spec))


def test_objects_that_are_being_deleted_are_not_served() -> None:
    deleted = {"deletionTimestamp": DELETED}
    for decode, body in ((decode_endpoint, model_endpoint()), (decode_adapter, lora_adapter())):
        assert decode(body) is not None
        assert decode(body | {"metadata": body["metadata"] | deleted}) is None


def test_adapter_is_kept_by_its_name_in_requests() -> None:
    kept = decode_adapter(lora_adapter("sql", adapterName="Sql.Expert", labels={"a": "b"}))
    assert kept is not None
    assert (kept.namespace, kept.name, kept.adapter_name) == ("team", "sql", "Sql.Expert")
    assert (kept.loaded, kept.labels) == (("uid-team-sql", "Sql.Expert"), {("a", "b")})


def test_adapter_that_cannot_be_read_is_said_to_be_so() -> None:
    with pytest.raises(ValueError, match="source"):
        decode_adapter(lora_adapter(source={}))
    with pytest.raises(ValueError, match="labels"):
        decode_adapter(lora_adapter(labels={"x": "y" * LONGEST_LABELS}))


def test_ready_pod_is_kept_with_its_address_and_adapters() -> None:
    kept = decode_pod(worker_pod(port=8123, loaded=[lora_adapter("sql"), lora_adapter("a", adapterName="x" * 80)]))
    assert kept is not None
    assert (kept.namespace, kept.name, kept.endpoint, kept.address) == ("team", "m-0", "m", ("10.0.0.1", 8123))
    long_name = decode_adapter(lora_adapter("a", adapterName="x" * 80))
    assert long_name is not None
    assert kept.loaded == {("uid-team-sql", "sql"), long_name.loaded}


@pytest.mark.parametrize(
    "pod",
    [
        worker_pod(ready=False),
        worker_pod(ip=None),
        worker_pod(deletionTimestamp=DELETED),
        worker_pod(labels={TAKES_REQUESTS: "false"}),
        worker_pod(endpoint=""),
        worker_pod() | {"status": {"phase": "Running", "podIP": "10.0.0.1"}},
        worker_pod() | {"spec": {"containers": [{"name": "engine"}]}},
        worker_pod() | {"spec": {"containers": [{"name": "other", "ports": [{"name": "http", "containerPort": 1}]}]}},
        worker_pod() | {"spec": {"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": 0}]}]}},
    ],
)
def test_pod_that_gets_no_requests_is_left_out(pod: Object) -> None:
    assert decode_pod(pod) is None


def test_pod_that_has_finished_is_left_out() -> None:
    pod = worker_pod()
    assert decode_pod(pod | {"status": pod["status"] | {"phase": "Failed"}}) is None


def test_pod_with_an_address_that_is_none_is_said_to_be_so() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        decode_pod(worker_pod(ip="nonsense"))


def test_label_of_one_adapter_does_not_show_another_one() -> None:
    shown = adapter_labels("sql", "uid-1")
    for left_out in shown:
        labels = {key: value for key, value in shown.items() if key != left_out}
        kept = decode_pod(worker_pod(labels=labels))
        assert kept is not None
        assert not kept.loaded


def test_pod_with_a_thousand_adapters_is_read() -> None:
    adapters = [lora_adapter(f"adapter-with-a-long-name-{number}") for number in range(1000)]
    kept = decode_pod(worker_pod(loaded=adapters))
    assert kept is not None
    assert len(kept.loaded) == 1000

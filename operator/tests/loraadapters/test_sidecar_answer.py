"""What a sidecar answers, and what something else may answer in its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_api.loraadapter import LoraAdapterStatus
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.plan import Load, Unload
from patio_operator.loraadapters.planner.planner import plan
from patio_operator.loraadapters.planner.selection import load_request
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_operator.loraadapters.planner.status import recorded, status
from patio_operator.loraadapters.sidecar_answer import LONGEST_MESSAGE, MOST_ADAPTERS, MOST_ATTEMPTS, read_answer
from patio_protocol.adapters import AdapterState
from patio_testing.operator.builders import NOW, lora_adapter, pod, report, seen


def answer(*adapters: Any, **changes: Any) -> bytes:
    body = {"revision": "r-1", "engine": "vllm", "engine_ready": True, "adapters": adapters} | changes
    return json.dumps(body).encode()


def report_body(**changes: Any) -> dict[str, Any]:
    return {"lora_name": "sql", "state": "Loaded", "reason": "Loaded", "since": 1.0} | changes


def test_answer_of_a_sidecar_is_read_as_it_was_sent() -> None:
    reports = [report(load_request(lora_adapter(name)), message="as it is", since=7.5) for name in ("a", "b")]
    answer = seen(*reports, room=3, batch=2, on_disk=("hf://org/a",)).answer
    assert answer is not None
    found = read_answer(answer.model_dump_json().encode())  # type: ignore[attr-defined]
    assert (found.revision, found.engine_ready, found.base_models) == (answer.revision, True, ("tiny",))
    assert (found.capacity.loaded, found.capacity.batch, found.on_disk) == (3, 2, ("hf://org/a",))
    for read, sent in zip(found.adapters, reports, strict=True):
        assert all(getattr(read, name) == getattr(sent, name) for name in type(read).__slots__)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"adapters":' * 1000,
        b"1" * 100_000,
        b'{"revision": "\xff"}',
        b'{"revision": "\\ud800", "engine_ready": true}',
        answer(revision=""),
        answer(revision="x" * 1000),
        answer(engine_ready="yes"),
        answer(adapters="none"),
    ],
)
def test_what_is_no_answer_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_answer(body)


def test_adapter_that_cannot_be_read_is_left_out() -> None:
    bad = [
        None,
        7,
        [],
        {},
        report_body(state="Resting"),
        report_body(lora_name=""),
        report_body(lora_name=5),
        report_body(lora_name="x" * 1000),
    ]
    bad += [report_body(lora_name="long", owner="x" * 1000), report_body(lora_name="number", owner=5)]
    found = read_answer(answer(*bad, report_body(), report_body(state="Failed")))
    assert [(each.lora_name, each.state) for each in found.adapters] == [("sql", AdapterState.LOADED)]


def test_numbers_and_texts_are_kept_in_bounds() -> None:
    wild = report_body(attempts=10**30, since=1e308, message="x" * 10**6, reason="no reason;\n", revision="x" * 10**4)
    (found,) = read_answer(answer(wild)).adapters
    assert (found.attempts, found.since, found.reason, found.revision) == (MOST_ATTEMPTS, 4e9, "Loaded", None)
    assert len(found.message) == LONGEST_MESSAGE
    (found,) = read_answer(answer(report_body(attempts=-5, since=-1.0, prepared={"state": "?"}))).adapters
    assert (found.attempts, found.since, found.prepared) == (0, 0.0, None)
    capacity = read_answer(answer(capacity={"loaded": -3, "batch": 10**40})).capacity
    assert (capacity.loaded, capacity.batch) == (None, None)


def test_no_more_adapters_are_kept_than_a_pod_may_have() -> None:
    found = read_answer(answer(*[report_body(lora_name=f"a{number}") for number in range(MOST_ADAPTERS + 10)]))
    assert len(found.adapters) == MOST_ADAPTERS


def test_texts_that_pods_share_are_kept_once() -> None:
    first, second = (read_answer(answer(report_body(owner="LoraAdapter/team/sql"), revision=f"r-{n}")) for n in (1, 2))
    assert first.adapters[0].owner is second.adapters[0].owner


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=10), inner, max_size=3)),
    max_leaves=8,
)
FIELDS = ("lora_name", "owner", "revision", "reason", "message", "attempts", "since", "held_revision", "prepared")
STATES = st.sampled_from([each.value for each in AdapterState])


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), ANYTHING), max_size=4), STATES, ANYTHING)
def test_whatever_is_reported_gives_a_plan_and_a_valid_status(
    reports: list[dict[str, Any]], state: str, capacity: Any
) -> None:
    own_report = {"lora_name": "sql", "state": state, "owner": "LoraAdapter/team/sql"}
    try:
        body = answer(*[own_report | each for each in reports], capacity=capacity)
        body.decode("utf-8")
    except ValueError:
        return
    try:
        sidecar = Observation(read_answer(body), ever_answered=True)
    except ValueError:
        return
    adapter = lora_adapter()
    decided = plan(Snapshot([pod()], {"uid-pod-0": sidecar}, [adapter], NOW))
    after = status(adapter, decided.placements["sql"], recorded({}), NOW)
    LoraAdapterStatus.model_validate(after)
    assert all(condition["reason"] for condition in after["conditions"])


@pytest.mark.parametrize("name", [":", "a b", "x/../y", "-", "a\n", "x" * 254])
def test_adapter_that_no_order_can_name_belongs_to_nobody(name: str) -> None:
    reported = report_body(lora_name=name, owner="LoraAdapter/team/deleted")
    sidecar = Observation(read_answer(answer(reported)), ever_answered=True)
    decided = plan(Snapshot([pod()], {"uid-pod-0": sidecar}, [lora_adapter()], NOW))
    assert [action.request.lora_name for action in decided.actions if isinstance(action, Load | Unload)] == ["sql"]


@pytest.mark.parametrize("owner", ["LoraAdapter/other/sql", "LoraAdapter/team-b/sql", "LoraAdapter/", "x", None])
def test_report_of_another_namespace_orders_nothing(owner: str | None) -> None:
    reported = report_body(owner=owner) if owner is not None else report_body()
    sidecar = Observation(read_answer(answer(reported, report_body(lora_name="old", owner=owner))), ever_answered=True)
    decided = plan(Snapshot([pod()], {"uid-pod-0": sidecar}, [lora_adapter()], NOW))
    assert not [action for action in decided.actions if isinstance(action, Load | Unload)]
    assert decided.placements["sql"].instances[0].reason == "NameTaken"

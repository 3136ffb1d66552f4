"""Traces as JSON lines."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_operator.modelendpoints.autoscaler.observation import (
    DemandReport,
    Gateway,
    Observations,
    QueueReport,
    Worker,
    WorkerState,
)
from patio_operator.modelendpoints.autoscaler.trace import (
    LONGEST_LINE,
    MOST_ENTRIES,
    MOST_STEPS,
    Step,
    TraceError,
    read_line,
    read_trace,
    write_line,
)

from .builders import at

FULL = Step(
    at(0),
    Observations(
        2,
        (
            Worker("w-0", WorkerState.READY, at(-900.25), 12, frozenset({"sql", "law"})),
            Worker("w-1", WorkerState.LOADING, at(-40)),
        ),
        (Gateway("gw-0", at(-86400)),),
        (DemandReport("gw-0", at(-0.8), 12, 30, at(0)),),
        QueueReport(at(-1), 3, 1),
    ),
)


def test_step_is_read_as_it_was_written() -> None:
    assert read_line(write_line(FULL)) == FULL
    nothing = Step(at(0.000001), Observations(0, None, None))
    assert read_line(write_line(nothing)) == nothing


def test_short_line_of_a_person_is_read() -> None:
    step = read_line(
        '{"at": 60, "replicas": 2, "workers": 2, "reports": [{"gateway": "gw-0", "inFlight": 5, "idle": 0}]}'
    )
    assert step.now.timestamp() == 60
    workers = step.observations.workers
    assert workers is not None
    assert [(each.name, each.state, each.in_flight) for each in workers] == [
        ("worker-0", WorkerState.READY, None),
        ("worker-1", WorkerState.READY, None),
    ]
    assert step.observations.gateways == (Gateway("gw-0", step.now - timedelta(days=1)),)
    assert step.observations.reports == (DemandReport("gw-0", step.now, 5, 0, step.now),)


def line(**fields: object) -> str:
    return json.dumps({"at": 0, **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ("{", "must be a JSON object"),
        ("[" * 100_000, "must be a JSON object"),
        ('{"at": NaN}', "must be a JSON object"),
        (" " * (LONGEST_LINE + 1), "at most 1048576 characters"),
        ("{}", "`at` must be a time"),
        ('{"at": true}', "`at` must be a time"),
        ('{"at": "2026-11-27T09:00:00"}', "`at` must be a time"),
        ('{"at": 1e300}', "`at` must be a time"),
        ('{"at": -1}', "`at` must be from 1970 to 2500"),
        (line(replica=1), "unknown field 'replica'"),
        (line(replicas=-1), "`replicas` must be an integer"),
        (line(replicas=10**9 + 1), "`replicas` must be an integer"),
        (line(replicas=1.5), "`replicas` must be an integer"),
        (line(workers=True), "`workers` must be an integer"),
        (line(workers=MOST_ENTRIES + 1), "`workers` has at most"),
        (line(workers={}), "`workers` must be a list"),
        (line(workers=[1]), "each entry of `workers`"),
        (line(workers=[{"name": "a", "state": "Sleeping"}]), "`state` must be one of Loading, Ready, Draining, Failed"),
        (line(workers=[{"name": "", "state": "Ready"}]), "`name` must be a text"),
        (line(workers=[{"name": "a", "state": "Ready", "adapters": [1]}]), "`adapters` must be a list"),
        (line(workers=[{"name": "a", "state": "Ready"}] * 2), "two entries of `workers`"),
        (line(gateways=[{}]), "`name` must be a text"),
        (line(reports=[{"gateway": "a"}] * (MOST_ENTRIES + 1)), "`reports` must be a list of at most"),
        (line(reports=[{"gateway": "a"}] * 2), "two entries of `reports`"),
        (line(reports=[{"gateway": "a", "age": 10**10}]), "`age` must be a number of seconds"),
        (line(reports=[{"gateway": "a", "age": "5"}]), "`age` must be a number of seconds"),
        (line(queue=[]), "`queue` must be an object"),
        (line(queue={"length": 5}), "unknown field 'length'"),
    ],
)
def test_wrong_line_is_explained(text: str, message: str) -> None:
    with pytest.raises(TraceError) as raised:
        read_line(text)
    assert message in str(raised.value)


def test_trace_skips_empty_lines_and_counts_them() -> None:
    assert [step.now.timestamp() for step in read_trace([line(), "\n", '{"at": 5}'])] == [0, 5]
    with pytest.raises(TraceError, match=r"^line 3: each line"):
        list(read_trace([line(), "", "?"]))


def test_time_in_a_trace_never_goes_back() -> None:
    with pytest.raises(TraceError, match=r"^line 2: `at` is before"):
        list(read_trace(['{"at": 5}', '{"at": 4}']))


def test_trace_has_an_end() -> None:
    assert len(list(read_trace([""] * (MOST_STEPS - 1) + [line()]))) == 1
    with pytest.raises(TraceError, match="a trace has at most"):
        list(read_trace([""] * (MOST_STEPS + 1)))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "gateway", "state", "age", "inFlight", "idle", "waiting"]), inner)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["at", "replicas", "workers", "gateways", "reports", "queue"]), json_values, max_size=6
    )
)
def test_whatever_is_read_is_a_step_or_an_error(value: dict[str, Any]) -> None:
    try:
        step = read_line(json.dumps({"at": 0, **value}))
    except TraceError:
        return
    assert read_line(write_line(step)).now == step.now

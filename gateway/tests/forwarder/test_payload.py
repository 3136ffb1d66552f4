"""`{"args": ...}` unwrapped and `{"result": ...}` around answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_gateway.forwarder.payload import (
    AS_STRING,
    Call,
    PayloadError,
    error_detail,
    event_of,
    is_json,
    read_call,
    wrapped,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=4)


@given(JSON.filter(lambda args: args is not None), OBJECT)
def test_args_of_any_shape_come_out_as_they_were(args: Any, others: dict[str, Any]) -> None:
    call = read_call(json.dumps({**others, "args": args}).encode())
    assert call is not None
    assert json.loads(call.args) == args


@given(JSON.filter(lambda content: not isinstance(content, dict) or "args" not in content))
def test_body_without_args_is_a_plain_request(content: Any) -> None:
    assert read_call(json.dumps(content).encode()) is None


@given(st.binary())
def test_any_bytes_are_a_call_a_plain_request_or_an_error(body: bytes) -> None:
    message = "a call"
    try:
        read_call(body)
    except PayloadError as error:
        message = str(error)
    assert message.isprintable()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"args": null}', b"9" * 5000])
def test_body_that_cannot_be_unwrapped_is_an_error(body: bytes) -> None:
    with pytest.raises(PayloadError):
        read_call(body)


@pytest.mark.parametrize(
    ("args", "stream"),
    [({}, None), ({"stream": None}, None), ({"stream": True}, True), ({"stream": False}, False), ([], None)],
)
def test_call_says_whether_it_wants_a_stream(args: object, stream: bool | None) -> None:
    assert read_call(json.dumps({"args": args}).encode()) == Call(
        json.dumps(args, separators=(",", ":")).encode(), stream
    )


def test_call_decides_on_strings_only_by_a_boolean() -> None:
    found = [read_call(json.dumps({"args": {AS_STRING: value}}).encode()) for value in (True, False, "false", 1)]
    assert [call and call.as_string for call in found] == [True, False, None, None]


@given(JSON, st.none() | st.integers(200, 599))
def test_result_as_a_string_is_the_json_of_the_answer(answer: Any, status: int | None) -> None:
    found = json.loads(wrapped(json.dumps(answer).encode(), True, status))
    expected = {"result": json.dumps(answer)} | ({} if status is None else {"status_code": status})
    assert found == expected


@given(JSON)
def test_result_as_json_is_the_answer_itself(answer: Any) -> None:
    assert json.loads(wrapped(json.dumps(answer).encode(), False, None)) == {"result": answer}


@given(st.binary(max_size=200), st.booleans())
def test_any_answer_becomes_json_with_a_result(answer: bytes, as_string: bool) -> None:
    result = json.loads(wrapped(answer, as_string, None))["result"]
    assert not as_string or isinstance(json.loads(result), object)


def test_answer_keeps_the_digits_of_its_numbers() -> None:
    assert wrapped(b' {"a": 1.10000000000000000001, "b": 1e400}\n', False, 200) == (
        b'{"result":{"a": 1.10000000000000000001, "b": 1e400},"status_code":200}'
    )


def test_text_and_nothing_become_results_too() -> None:
    assert wrapped(b"Internal Server Error", True, None) == b'{"result":"\\"Internal Server Error\\""}'
    assert wrapped(b"", True, None) == b'{"result":"null"}'
    assert error_detail(b"no <json>") == b'{"detail":"no <json>"}'
    assert error_detail(b'{"error": 1}') == b'{"detail":{"error": 1}}'


@given(JSON)
def test_event_has_the_json_of_its_data(data: Any) -> None:
    event = event_of(json.dumps(data, indent=1), False)
    assert event.startswith(b"data: ")
    assert event.endswith(b"\r\n\r\n")
    assert b"\n" not in event[:-4]
    assert b"\r" not in event[:-4]
    assert json.loads(event.removeprefix(b"data: ")) == {"result": data}


@given(st.text())
def test_event_of_any_text_has_it_as_a_string_where_wanted(data: str) -> None:
    assert json.loads(event_of(data, True).removeprefix(b"data: ")) == {"result": data}


def test_end_of_openais_streams_is_an_event_too() -> None:
    assert event_of("[DONE]", False) == b'data: {"result":"[DONE]"}\r\n\r\n'


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("", True),
        ("application/json; charset=utf-8", True),
        ("application/problem+json", True),
        ("multipart/form-data; boundary=x", False),
        ("text/plain", False),
    ],
)
def test_type_of_a_body_says_whether_it_is_json(content_type: str, expected: bool) -> None:
    assert is_json(content_type) is expected

"""An engine's list of models: what it serves, however it is written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_gateway.sources.listing import MOST_BYTES, MOST_ENTRIES, MOST_NAME, Listing, read_listing


def a_list(*entries: object) -> bytes:
    return json.dumps({"object": "list", "data": entries}).encode()


def test_adapter_is_what_has_a_parent() -> None:
    data = a_list({"id": "base", "parent": None}, {"id": "alias"}, {"id": "sql", "parent": "base", "root": "/x"})
    assert read_listing(data) == Listing(("base", "alias"), frozenset({"sql"}))


def test_entries_that_are_no_models_are_left_out() -> None:
    long = "x" * (MOST_NAME + 1)
    data = a_list(1, None, {}, {"id": 1}, {"id": ""}, {"id": long}, {"id": "base"}, {"id": "base", "parent": "base"})
    assert read_listing(data) == Listing(("base",), frozenset())
    assert read_listing(a_list({"id": long[:-1]})).bases == (long[:-1],)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"data": 1}', b"[" * 100_000, b"\xff", b'"data"'])
def test_answer_that_is_no_list_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_listing(data)


def test_list_at_its_limits_is_read_and_past_them_not() -> None:
    entries = [{"id": f"{number}"} for number in range(MOST_ENTRIES)]
    assert len(read_listing(a_list(*entries)).bases) == MOST_ENTRIES
    with pytest.raises(ValueError, match="at most"):
        read_listing(a_list(*entries, {"id": "more"}))
    full = a_list({"id": "m"})
    assert read_listing(full + b" " * (MOST_BYTES - len(full))).bases == ("m",)
    with pytest.raises(ValueError, match="longer"):
        read_listing(full + b" " * (MOST_BYTES - len(full) + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_an_error(data: bytes) -> None:
    try:
        read_listing(data)
    except ValueError:
        return
